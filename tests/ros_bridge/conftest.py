"""progeo-replay in this process, and the recording that most tests replay.

Imports are inside: the tests of the nodes run in environments without rosbags.
"""

from __future__ import annotations

import sys

import pytest


@pytest.fixture
def command(capsys, monkeypatch):
    from progeo_ros.replay.command import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["progeo-replay", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as exit:
            main()
        captured = capsys.readouterr()
        return int(exit.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def first_pass(tmp_path_factory):
    """A bag with one pass of the street; nobody writes to it."""
    from tests.ros_bridge.street_bag import write_street

    return write_street(tmp_path_factory.mktemp("first_pass"), "mcap", passes=(0,))
