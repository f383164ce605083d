"""Maps as training images: thumbnails or the frames of their recording, joined by loop closures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from progeo_edge.errors import MapError, SourceError
from progeo_edge.map_store import MapStore
from progeo_edge.types import Keyframe, LoopClosure, Status
from progeo_train.config import PlacesConfig
from progeo_train.data.map_images import read_map
from progeo_train.data.place_groups import PlaceGroups
from tests.map_samples import SPEC, unit
from tests.sources.image_files import level, write_folder

S = 10**9
SMALL = PlacesConfig(min_images_per_class=2, window_s=4.0, min_gap_s=2.0)
START_NS = 1_700_000_000 * S


def write_map(
    path: Path,
    sessions: Sequence[str] = ("drive",),
    *,
    per_session: int = 16,
    revisit_after: int = 0,
    odometry: bool = False,
    thumbnails: bool = True,
) -> Path:
    """Keyframes 1 s apart; keyframe k has a thumbnail of level 10 + k, and sees the place of k - revisit_after."""
    rng = np.random.default_rng(0)
    with MapStore.create(path, SPEC) as store:
        for name in sessions:
            session = store.begin_session(name, camera=None, config_yaml="")
            for step in range(per_session):
                id = store.next_keyframe_id()
                pose = np.eye(4)
                pose[:2, 3] = 3.0 * step, 1.0
                keyframe = Keyframe(id, session, START_NS + step * S, unit(rng), T_odom_base=pose if odometry else None)
                closed = revisit_after and id >= revisit_after
                store.add_keyframe(
                    keyframe,
                    status=Status.ACCEPTED if closed else Status.NO_CANDIDATE,
                    thumbnail=np.full((12, 16), 10 + id, np.uint8) if thumbnails else None,
                    closures=[LoopClosure(id, id - revisit_after, 0.9)] if closed else (),
                )
    return path


def classes(groups: PlaceGroups) -> set[tuple[int, ...]]:
    return {
        tuple(groups.members(g, k).tolist()) for g in range(groups.num_groups) for k in range(groups.num_classes(g))
    }


def test_thumbnails_are_files_and_windows_of_time_are_places(tmp_path: Path) -> None:
    path, seen = write_map(tmp_path / "map.progeo"), list[int]()
    for _ in range(2):
        table, groups = read_map(path, SMALL, tmp_path / "cache", progress=seen.append)
        assert [level(cv2.imread(str(table.path(row)))) for row in range(16)] == list(range(10, 26))
        assert np.array_equal(table.time_s, np.arange(16.0))
        assert (table.region == -1).all()
        assert classes(groups) == {tuple(range(4 * k, 4 * k + 4)) for k in range(4)}
    assert sum(seen) == 16


def test_closures_join_two_sessions_into_one_place(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.progeo", ("monday", "tuesday"), revisit_after=16)
    table, groups = read_map(path, SMALL, tmp_path / "cache")
    assert table.sequence_names == ("session 0 monday", "session 1 tuesday")
    assert (table.region == 0).all()
    assert np.array_equal(table.time_s, np.tile(np.arange(16.0), 2))
    assert classes(groups) == {(*range(4 * k, 4 * k + 4), *range(16 + 4 * k, 20 + 4 * k)) for k in range(4)}


def test_sessions_without_closures_are_never_told_apart(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.progeo", ("monday", "tuesday"))
    table, groups = read_map(path, SMALL, tmp_path / "cache")
    assert len(classes(groups)) == 8
    for g in range(groups.num_groups):
        members = [groups.members(g, k) for k in range(groups.num_classes(g))]
        assert len(set(table.sequence[np.concatenate(members)])) == 1


def test_odometry_makes_cells_of_a_map(tmp_path: Path) -> None:
    table, groups = read_map(write_map(tmp_path / "map.progeo", odometry=True), SMALL, tmp_path / "cache")
    assert np.allclose(table.east_m, 3.0 * np.arange(16))
    assert classes(groups) == {(0, 1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12, 13), (14, 15)}


def test_a_keyframe_more_is_a_new_folder(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.progeo")
    first, _ = read_map(path, SMALL, tmp_path / "cache")
    with MapStore.open(path) as store:
        store.remove_keyframes([3])
    second, _ = read_map(path, SMALL, tmp_path / "cache")
    assert (len(first), len(second)) == (16, 15)
    assert level(cv2.imread(str(second.path(3)))) == 14


def test_a_map_without_images_names_the_remedy(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.progeo", thumbnails=False)
    with pytest.raises(SourceError, match=r"was made without images .* as .*map.progeo@RECORDING"):
        read_map(path, SMALL, tmp_path / "cache")
    with pytest.raises(SourceError, match="holds no keyframe"):
        read_map(write_map(tmp_path / "empty.progeo", per_session=0), SMALL, tmp_path / "cache")


def recording(folder: Path, start_ns: int = START_NS) -> Path:
    """40 frames, two a second."""
    names = [f"{k:03d}.png" for k in range(40)]
    write_folder(folder, names)
    lines = [f"{name},{start_ns + k * S // 2}" for k, name in enumerate(names)]
    (folder / "timestamps.csv").write_text("\n".join(["image,time_ns", *lines]))
    return folder


def test_original_frames_are_found_by_their_stamps(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.progeo", thumbnails=False, revisit_after=8)
    source = recording(tmp_path / "drive")
    for _ in range(2):
        table, groups = read_map(path, SMALL, tmp_path / "cache", str(source))
        assert [table.path(row) for row in range(16)] == [source / f"{2 * k:03d}.png" for k in range(16)]
        assert classes(groups) == {(*range(4 * k, 4 * k + 4), *range(8 + 4 * k, 12 + 4 * k)) for k in range(2)}


def test_a_recording_of_another_day_is_refused(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.progeo")
    source = recording(tmp_path / "other", START_NS + 14 * S)
    with pytest.raises(SourceError, match="at the times of 2 of the 16 keyframes"):
        read_map(path, SMALL, tmp_path / "cache", str(source))


def test_of_several_sessions_the_one_of_the_recording_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_map(tmp_path / "map.progeo", ("data/monday", "data/tuesday"))
    table, _ = read_map(path, SMALL, tmp_path / "cache", str(recording(tmp_path / "tuesday")))
    assert (table.sequence == 1).all() and len(table) == 16
    assert "16 of 32 keyframes are not in" in caplog.text
    with pytest.raises(SourceError, match=r"has no session of .*its sessions are data/monday, data/tuesday"):
        read_map(path, SMALL, tmp_path / "cache", str(recording(tmp_path / "friday")))


def test_what_is_no_map_is_refused(tmp_path: Path) -> None:
    (tmp_path / "map.progeo").write_bytes(b"SQLite format 3\x00" + bytes(100))
    with pytest.raises(MapError):
        read_map(tmp_path / "map.progeo", SMALL, tmp_path / "cache")
