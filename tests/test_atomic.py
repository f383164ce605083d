"""Files are written wholly or not at all."""

from __future__ import annotations

import pytest

from progeo_edge.atomic import replacing, write_text


def test_a_file_appears_whole(tmp_path):
    write_text(tmp_path / "a.txt", "grüße\n")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "grüße\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failure_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="boom"), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("boom")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_missing_folder_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "none" / "a.txt", "x")
