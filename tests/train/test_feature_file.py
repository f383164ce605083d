"""The file of features: what is marked done is right, whatever happened before."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from progeo_edge.errors import InputError, SourceError
from progeo_train.feature_file import FeatureFile

ROWS, DIM, KEY = 50, 6, "a" * 64
REPOSITORY = Path(__file__).parents[2]


def values_of(rows: range) -> np.ndarray:
    """A value that tells its row and column."""
    return np.add.outer(np.array(rows) * 100.0, np.arange(DIM)).astype(np.float32)


def new_file(folder: Path, **changes) -> FeatureFile:
    given: dict[str, Any] = {"num_rows": ROWS, "dim": DIM, "key": KEY, "chunk_rows": 8} | changes
    return FeatureFile.open_or_create(folder, **given)


def fill(file: FeatureFile, chunks: list[int], rank: int = 0) -> None:
    for chunk in chunks:
        file.write_chunk(chunk, values_of(file.rows_of(chunk)), rank)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = new_file(tmp_path / "new" / "folder")
    fill(file, file.open_chunks())
    again = FeatureFile.open_existing(file.folder, key=KEY)
    np.testing.assert_array_equal(again.features, values_of(range(ROWS)))
    np.testing.assert_array_equal(np.load(file.folder / "features.npy", mmap_mode="r"), values_of(range(ROWS)))
    np.testing.assert_array_equal(again.read_rows(7, 19), values_of(range(7, 19)))
    np.testing.assert_array_equal(again.read_rows(45, 99), values_of(range(45, ROWS)))
    assert again.readable.all() and again.readable.shape == (ROWS,)
    assert not again.features.flags.writeable


def test_float16_is_stored_as_such_and_refuses_to_overflow(tmp_path: Path) -> None:
    file = new_file(tmp_path, dtype="float16")
    file.write_chunk(0, np.full((8, DIM), 0.1, np.float32))
    assert file.read_rows(0, 8).dtype == np.float16
    np.testing.assert_array_equal(file.read_rows(0, 8), np.float16(0.1))
    values = np.ones((8, DIM), np.float32)
    values[3, 2] = 70_000
    with pytest.raises(InputError, match="row 11 are not finite as float16"):
        file.write_chunk(1, values)
    assert file.num_done == 8


def test_chunks_are_shared_and_each_process_marks_its_own(tmp_path: Path) -> None:
    first = new_file(tmp_path)
    second = FeatureFile.open_existing(tmp_path, key=KEY, complete=False)
    assert first.open_chunks(0, 2) == [0, 2, 4, 6]
    assert second.open_chunks(1, 2) == [1, 3, 5]
    fill(first, [0, 2], rank=0)
    fill(second, [1, 5], rank=1)
    assert first.num_done == second.num_done == 32
    # Another number of processes continues: what is done counts, whoever did it.
    assert [first.open_chunks(rank, 3) for rank in range(3)] == [[3, 6], [4], []]
    fill(first, [3, 4, 6], rank=2)
    np.testing.assert_array_equal(new_file(tmp_path).features, values_of(range(ROWS)))


def test_rows_without_an_image_are_nan_and_known(tmp_path: Path) -> None:
    file = new_file(tmp_path)
    values = values_of(file.rows_of(2))
    values[5] = np.nan
    file.write_chunk(2, values)
    assert list(np.flatnonzero(file.readable)) == [16, 17, 18, 19, 20, 22, 23]
    again = new_file(tmp_path)
    fill(again, again.open_chunks())
    assert list(np.flatnonzero(~again.readable)) == [21]


def test_half_a_nan_is_no_unreadable_image(tmp_path: Path) -> None:
    values = values_of(range(8))
    values[4, 3] = np.nan
    with pytest.raises(InputError, match="row 4 are not finite"):
        new_file(tmp_path).write_chunk(0, values)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"key": "b" * 64}, "images, weights or settings have changed"),
        ({"num_rows": ROWS + 1}, "should be"),
        ({"dim": DIM + 1}, "should be"),
        ({"dtype": "float16"}, "should be"),
    ],
)
def test_another_content_replaces_and_says_why(tmp_path: Path, caplog, change: dict[str, Any], reason: str) -> None:
    fill(new_file(tmp_path), [0, 1])
    (tmp_path / "unreadable.txt").write_text("old\n")
    with caplog.at_level(logging.WARNING):
        file = new_file(tmp_path, **change)
    assert reason in caplog.text and "computed anew" in caplog.text
    assert file.num_done == 0
    assert not (tmp_path / "unreadable.txt").exists()


def test_the_same_content_is_continued_in_silence_with_its_own_chunks(tmp_path: Path, caplog) -> None:
    fill(new_file(tmp_path), [0, 1])
    with caplog.at_level(logging.WARNING):
        file = new_file(tmp_path, chunk_rows=16)
    assert file.open_chunks() == [2, 3, 4, 5, 6]
    assert not caplog.records


def test_a_file_that_is_not_complete_gives_no_features(tmp_path: Path) -> None:
    file = new_file(tmp_path)
    fill(file, [0, 1])
    with pytest.raises(SourceError, match="not complete: 16 of 50 rows"):
        FeatureFile.open_existing(tmp_path)
    with pytest.raises(SourceError, match="not complete"):
        _ = file.features


def truncate_features(folder: Path) -> None:
    os.truncate(folder / "features.npy", (folder / "features.npy").stat().st_size - 1)


def lengthen_features(folder: Path) -> None:
    with (folder / "features.npy").open("ab") as file:
        file.write(b"x")


def spoil_header(folder: Path) -> None:
    with (folder / "features.npy").open("r+b") as file:
        file.seek(20)
        file.write(b"?")


def spoil_description(folder: Path) -> None:
    (folder / "description.json").write_text('{"num_rows": 5')


def change_schema(folder: Path) -> None:
    path = folder / "description.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))


def spoil_marks(folder: Path) -> None:
    (folder / "done.0.bin").write_bytes(b"\x07")


def lengthen_marks(folder: Path) -> None:
    (folder / "done.0.bin").write_bytes(b"\x01" * 8)


def remove_features(folder: Path) -> None:
    (folder / "features.npy").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate_features, "features.npy is truncated: 5295 bytes, expected 5296"),
        (lengthen_features, "features.npy is too long"),
        (spoil_header, "the header of features.npy is damaged"),
        (spoil_description, "description.json is damaged"),
        (change_schema, "description.json is damaged or of another version"),
        (spoil_marks, "done.0.bin does not hold the states of 7 chunks"),
        (lengthen_marks, "done.0.bin does not hold the states of 7 chunks"),
        (remove_features, "features.npy cannot be read"),
    ],
)
def test_damage_is_one_clear_line_and_begins_anew(tmp_path: Path, caplog, damage, words: str) -> None:
    file = new_file(tmp_path)
    fill(file, file.open_chunks())
    damage(tmp_path)
    with pytest.raises(SourceError, match="extract them again") as caught:
        FeatureFile.open_existing(tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING):
        again = new_file(tmp_path)
    assert len(caplog.records) == 1 and words in caplog.text
    assert again.num_done == 0
    fill(again, again.open_chunks())
    np.testing.assert_array_equal(FeatureFile.open_existing(tmp_path).features, values_of(range(ROWS)))


def test_a_foreign_features_file_is_left_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", np.ones(3))
    with pytest.raises(SourceError, match="choose another folder"):
        new_file(tmp_path)
    assert np.load(tmp_path / "features.npy").sum() == 3


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="choose a folder that can be written"):
        new_file(tmp_path / "file" / "below")


def test_a_full_disk_is_a_message_before_the_work_begins(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot hold 4000000.00 GB"):
        new_file(tmp_path, num_rows=10**9, dim=10**6)


def test_the_wrong_key_is_refused(tmp_path: Path) -> None:
    new_file(tmp_path)
    with pytest.raises(SourceError, match="other images, weights or settings"):
        FeatureFile.open_existing(tmp_path, key="b" * 64, complete=False)


@pytest.mark.parametrize("change", [{"num_rows": 0}, {"dim": 0}, {"key": ""}])
def test_nothing_cannot_be_stored(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        new_file(tmp_path, **change)


def test_a_chunk_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"shape \(7, 6\); expected \(8, 6\)"):
        new_file(tmp_path).write_chunk(0, np.zeros((7, DIM)))


def test_chunks_begin_at_pages_and_suit_the_number_of_processes(tmp_path: Path) -> None:
    file = FeatureFile.open_or_create(tmp_path / "a", 5000, 32, KEY, world_size=2)
    assert file.description.chunk_rows == 64
    assert 64 * 32 * 4 % 4096 == 0
    assert (tmp_path / "a" / "features.npy").stat().st_size == 4096 + 5000 * 32 * 4
    assert FeatureFile.open_or_create(tmp_path / "b", 10**5, 1, KEY).description.chunk_rows == 1024


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from progeo_train.feature_file import FeatureFile

file = FeatureFile.open_or_create(Path(sys.argv[1]), 32768, 256, "k", chunk_rows=64)
for chunk in file.open_chunks():
    rows = file.rows_of(chunk)
    file.write_chunk(chunk, np.repeat(np.array(rows, np.float32)[:, None] + 1, 256, axis=1))
    print(chunk, flush=True)
"""


def run_writer(folder: Path) -> subprocess.Popen[str]:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "train")]))
    command = [sys.executable, "-c", WRITER, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder.parent)


def test_a_kill_at_any_moment_costs_only_the_open_chunks(tmp_path: Path) -> None:
    folder, kills, seen = tmp_path / "features", 0, []
    expected = np.repeat(np.arange(32768, dtype=np.float32)[:, None] + 1, 256, axis=1)
    for wait_s in (0.0, 0.005, 0.011, 0.023):
        with run_writer(folder) as writer:
            assert writer.stdout is not None
            seen += [int(line) for line in writer.stdout.readline().split()]
            time.sleep(wait_s)
            writer.send_signal(signal.SIGKILL)
            seen += [int(line) for line in writer.stdout.read().split()]
        kills += writer.returncode == -signal.SIGKILL
        file = FeatureFile.open_existing(folder, complete=False)
        done = [chunk for chunk, state in enumerate(file.states()) if state]
        assert set(seen) <= set(done)
        for chunk in done:
            rows = file.rows_of(chunk)
            np.testing.assert_array_equal(file.read_rows(rows.start, rows.stop), expected[rows.start : rows.stop])
    with run_writer(folder) as writer:
        seen += [int(line) for line in writer.communicate()[0].split()]
    assert writer.returncode == 0 and kills > 0
    assert len(seen) == len(set(seen)), "a chunk that was done was done again"
    np.testing.assert_array_equal(FeatureFile.open_existing(folder).features, expected)
