from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from progeo_edge.benchmark.footage import MAX_RENDERED, Footage, of_recording, of_rendered_street
from progeo_edge.errors import InputError
from progeo_edge.sources import open_source
from tests.sources.image_files import level, write_folder


def recording(folder: Path, count: int, num_queries: int, *, has_map: bool = False, warmup: int = 2) -> Footage:
    write_folder(folder / "pictures", [f"{i:03d}.png" for i in range(count)])
    return of_recording(open_source(folder / "pictures"), num_queries, has_map=has_map, warmup=warmup)


def levels(footage: Footage) -> tuple[list[int], list[int]]:
    return [level(frame.image) for frame in footage.first_lap()], [level(f.image) for f, _ in footage.second_lap()]


def test_every_other_frame_fills_the_map_and_those_between_ask(tmp_path: Path):
    footage = recording(tmp_path, 40, 15)
    first, second = levels(footage)
    assert first == list(range(10, 40, 2)) and second == list(range(11, 41, 2))
    assert levels(footage) == (first, second), "every pass gives the same frames"


def test_with_a_map_all_frames_ask(tmp_path: Path):
    footage = recording(tmp_path, 40, 15, has_map=True)
    assert levels(footage) == ([], list(range(10, 25)))


def test_a_short_recording_gives_fewer_queries(tmp_path: Path):
    footage = recording(tmp_path, 31, 100)
    assert footage.num_queries == 15 and len(levels(footage)[1]) == 15


@pytest.mark.parametrize(("has_map", "least"), [(False, 24), (True, 12)])
def test_a_recording_that_is_too_short_is_refused(tmp_path: Path, has_map: bool, least: int):
    with pytest.raises(
        InputError, match=f"gives {least - 1} frames, .*expected at least {least} frames: name a longer"
    ):
        recording(tmp_path, least - 1, 60, has_map=has_map)
    assert recording(tmp_path / "more", least, 60, has_map=has_map).num_queries == 12


def test_decoding_is_timed(tmp_path: Path):
    times_ms = [ms for _, ms in recording(tmp_path, 30, 15).second_lap()]
    assert len(times_ms) == 15 and all(0 < ms < 10_000 for ms in times_ms)


def test_samples_follow_each_other(tmp_path: Path):
    assert [level(frame.image) for frame in recording(tmp_path, 30, 15).samples(5, 4)] == [15, 16, 17, 18]


def test_a_rendered_street_has_odometry_and_is_decoded_from_jpeg():
    ticks = []
    footage = of_rendered_street(2, has_map=False, steps=lambda name, total: lambda: ticks.append(total))
    (a, _), (b, _) = footage.second_lap()
    assert ticks == [4] * 4 and footage.kind == "rendered" and footage.camera is not None
    assert a.image.shape == (480, 640, 3) and a.T_odom_base is not None and a.image.std() > 20
    assert not np.array_equal(a.image, b.image)
    (again, _), _ = footage.second_lap()
    np.testing.assert_array_equal(again.image, a.image)


def test_more_than_the_street_is_refused_before_rendering():
    with pytest.raises(InputError, match=f"need {MAX_RENDERED + 2} rendered ones"):
        of_rendered_street(MAX_RENDERED // 2 + 1, has_map=False)
