"""progeo-calibrate as a user calls it."""

from __future__ import annotations

import json
import sys

import pytest

from progeo_edge.calibration import document_key
from progeo_edge.cli import calibrate as calibrate_command
from progeo_edge.encoders.whitening import load_whitening
from progeo_edge.map_store import MapStore
from tests.small_world import two_passes, write_images
from tests.test_map_replay import driven_map

SETTINGS = ("--set", "search.rerank=false")


@pytest.fixture
def command(capsys, monkeypatch):
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["progeo-calibrate", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as exit:
            calibrate_command.main()
        captured = capsys.readouterr()
        return int(exit.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def map_path(tmp_path):
    path = tmp_path / "map.progeo"
    driven_map(path).close()
    return path


def test_a_map_is_calibrated_and_keeps_the_result(command, map_path):
    code, out, _ = command(map_path, *SETTINGS)
    assert code == 0
    assert "keyframes with an impostor" in out
    assert "cosine needed" in out
    assert any(verdict in out for verdict in ("GOOD: ", "WEAK: ", "NONE: "))
    with MapStore.open(map_path, read_only=True) as store:
        assert store.document(document_key("cam0")) is not None


def test_only_to_look_changes_nothing(command, map_path):
    before = map_path.read_bytes()
    assert command(map_path, "--no-store", *SETTINGS)[0] == 0
    assert map_path.read_bytes() == before


def test_a_higher_rate_needs_less_similarity(command, map_path):
    gates = []
    for rate in (1, 100):
        code, out, _ = command(map_path, "--json", "--rate", rate, *SETTINGS)
        assert code == 0
        answer = json.loads(out)["cam0"]
        assert answer["false_per_hour"] == rate
        gates.append(answer["min_similarity"])
    assert gates[1] < gates[0] - 0.01


def test_the_histogram_is_a_picture(command, map_path, tmp_path):
    picture = tmp_path / "histogram.svg"
    assert command(map_path, "--picture", picture, *SETTINGS)[0] == 0
    text = picture.read_text()
    assert text.startswith("<svg")
    assert "best impostor of a keyframe" in text
    assert "fitted tail" in text


def test_a_recording_that_is_too_short_says_so(command, tmp_path):
    write_images(tmp_path / "images", two_passes()[0])
    code, _, err = command(tmp_path / "images", "--set", "keyframe.every_frame=true")
    assert code == 2
    assert "error: " in err
    assert "\n" not in err.strip()


def test_a_whitening_is_learned_from_a_map(command, map_path, tmp_path):
    code, out, err = command(map_path, "--whiten", tmp_path / "site.whitening", "--dimension", 8)
    assert (code, err) == (0, "") or "5000" in err  # few frames are said to be few
    assert "24 to 8 dimensions" in out
    assert load_whitening(tmp_path / "site.whitening").header.dimension == 8


def test_a_whitening_of_too_few_frames_is_refused(command, tmp_path):
    write_images(tmp_path / "images", two_passes()[0])
    code, _, err = command(tmp_path / "images", "--whiten", tmp_path / "site.whitening")
    assert code == 2
    assert "frames" in err
    assert not (tmp_path / "site.whitening").exists()
