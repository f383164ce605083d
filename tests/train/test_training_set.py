"""Any number of folders, tables, recordings and maps as one data set, and what is said when one cannot be used."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from progeo_edge.errors import MapError, SourceError
from progeo_train.config import PlacesConfig, TrainConfig
from progeo_train.data.training_set import TrainingSet, open_training_set, split_map
from tests.sources.image_files import write_folder
from tests.train.test_map_images import recording, write_map
from tests.train.test_recording_data import write_video

SMALL = TrainConfig(places=PlacesConfig(min_images_per_class=2, window_s=4.0, min_gap_s=2.0, cell_stride=1))


def utm_folder(folder: Path) -> Path:
    """Three images of each of four places 10 m apart, one without a heading, one without a position."""
    names = [f"@{500_000 + 10 * (k // 3)}@{4_000_000 + k % 3}@{'@' * 6}90@@@@{k}@.png" for k in range(12)]
    return write_folder(folder, [*names, "@500000@4000000@@.png", "plain.png"])


def labels(folder: Path) -> Path:
    write_folder(folder, [f"{k}.png" for k in range(6)])
    lines = [f"{k}.png,house {k // 2}" for k in range(6)]
    (folder / "labels.csv").write_text("\n".join(["image,place", *lines]))
    return folder / "labels.csv"


def read(specs: list[Path | str], tmp_path: Path, config: TrainConfig = SMALL) -> TrainingSet:
    return open_training_set([str(spec) for spec in specs], config, tmp_path / "cache")


def test_each_kind_of_data_is_told_by_looking(tmp_path: Path) -> None:
    folder, table = utm_folder(tmp_path / "utm"), labels(tmp_path / "labels")
    frames = recording(tmp_path / "drive")
    stored, video = write_map(tmp_path / "kitchen.map"), write_video(tmp_path / "drive.avi", seconds=16)
    counts: dict[Path | str, int] = {folder: 14, table: 6, frames: 40, video: 32, stored: 16, f"{stored}@{frames}": 16}
    counts |= {f"{frames}?fps=4": 40, f"{video}?fps=5": 64}
    for spec, count in counts.items():
        data = read([spec], tmp_path)
        assert len(data) == count, spec
        assert all(cv2.imread(str(data.path(row))) is not None for row in range(count))


def test_a_bag_without_image_files_is_no_empty_folder(tmp_path: Path) -> None:
    pytest.importorskip("rosbags", reason="bags need the extra: pip install 'progeo-edge[bags]'")
    from tests.sources.bag_writer import Messages

    messages = Messages("mcap")
    for k in range(40):
        stamp_ns = 1_700_000_000 * 10**9 + k * 10**9 // 2
        messages.add("/front", stamp_ns, messages.grey(stamp_ns, 40 + k))
    assert len(read([messages.write(tmp_path)], tmp_path)) == 40


def test_several_specs_are_one_numbering(tmp_path: Path) -> None:
    frames, table = recording(tmp_path / "drive"), labels(tmp_path / "labels")
    data = read([frames, table], tmp_path)
    assert len(data) == 46
    assert data.path(39) == frames / "039.png"
    assert data.path(40) == table.parent / "0.png"
    with pytest.raises(IndexError):
        data.path(46)
    names = {data.groups.class_name(0, k): data.groups.members(0, k) for k in range(data.groups.num_classes(0))}
    assert names["house 1"].tolist() == [42, 43]
    assert data.summary.num_images == 46
    assert data.summary.num_used == len(np.unique(data.groups.member_rows))
    assert data.summary.classes_per_group == tuple(data.groups.num_classes(g) for g in range(data.groups.num_groups))


def test_the_summary_says_what_is_used_and_what_is_missing(tmp_path: Path) -> None:
    text = read([utm_folder(tmp_path / "utm")], tmp_path).summary.describe()
    assert "12 of 14 images of" in text
    assert "show 4 places in 1 group (4 places)" in text
    assert "2 images are left out" in text
    assert "1 have no position and 2 have no heading" in text
    text = read([labels(tmp_path / "labels")], tmp_path).summary.describe()
    assert text.endswith("show 3 places in 1 group (3 places).")


def test_the_fingerprint_follows_names_and_groups_only(tmp_path: Path) -> None:
    folder = utm_folder(tmp_path / "utm")
    first = read([folder], tmp_path).fingerprint()
    cv2.imwrite(str(next(folder.glob("@*"))), np.zeros((5, 5), np.uint8))
    assert read([folder], tmp_path).fingerprint() == first
    other = TrainConfig(places=SMALL.places.model_copy(update={"heading_deg": 360.0}))
    assert read([folder], tmp_path, other).fingerprint() != first
    (folder / "plain.png").rename(folder / "other.png")
    assert read([folder], tmp_path).fingerprint() != first


def test_the_cache_may_move(tmp_path: Path) -> None:
    video = write_video(tmp_path / "drive.avi", seconds=16)
    first = open_training_set([str(video)], SMALL, tmp_path / "a").fingerprint()
    assert open_training_set([str(video)], SMALL, tmp_path / "b").fingerprint() == first


def test_a_place_alone_in_its_group_is_left_out(tmp_path: Path) -> None:
    """Five windows, of which every third may be told apart: groups of two, two and one."""
    frames = write_folder(tmp_path / "drive", [f"{k:02d}.png" for k in range(20)])
    config = TrainConfig(places=SMALL.places.model_copy(update={"min_gap_s": 6.0}))
    data = read([f"{frames}?fps=1"], tmp_path, config)
    assert min(data.summary.classes_per_group) >= 2
    assert data.summary.num_single + sum(data.summary.classes_per_group) == 5
    assert data.summary.num_single == 1
    assert "1 places were alone in their group" in data.summary.describe()


def test_a_map_is_told_from_its_recording(tmp_path: Path) -> None:
    stored = write_map(tmp_path / "a@b.progeo", per_session=1)
    assert split_map(str(stored)) == (stored, None)
    assert split_map(f"{stored}@some@where.mp4?fps=5") == (stored, "some@where.mp4?fps=5")
    assert split_map(str(tmp_path / "@1@2@.progeo")) == (None, None)
    assert split_map(str(tmp_path)) == (None, None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: [], "no training data named"),
        (lambda at: [at / "absent"], "absent does not exist"),
        (lambda at: [at / "absent.progeo@drive"], "does not exist"),
        (lambda at: [write_folder(at / "empty", []) / ".."], "is not understood"),
        (lambda at: [write_map(at / "map.progeo", thumbnails=False)], "was made without images"),
        (lambda at: [recording(at / "drive"), f"{at / 'drive'}?speed=3"], "is no option of a recording"),
    ],
)
def test_bad_data_are_one_clear_line(tmp_path: Path, make: object, message: str) -> None:
    tmp_path = tmp_path / "data"
    (tmp_path / "empty").mkdir(parents=True)
    assert callable(make)
    with pytest.raises(SourceError, match=message) as caught:
        read(make(tmp_path), tmp_path.parent)
    assert "\n" not in str(caught.value)


def test_a_video_without_frames_and_a_broken_map(tmp_path: Path) -> None:
    (tmp_path / "drive.mp4").write_bytes(b"nothing")
    with pytest.raises(SourceError, match="cannot be opened"):
        read([tmp_path / "drive.mp4"], tmp_path)
    (tmp_path / "map.progeo").write_bytes(b"nothing")
    with pytest.raises(MapError):
        read([tmp_path / "map.progeo"], tmp_path)


def test_too_small_places_name_the_setting(tmp_path: Path) -> None:
    config = TrainConfig(places=PlacesConfig(min_images_per_class=50))
    for spec in (utm_folder(tmp_path / "utm"), labels(tmp_path / "labels"), recording(tmp_path / "drive")):
        with pytest.raises(SourceError, match=r"min_images_per_class"):
            read([spec], tmp_path, config)


def test_places_none_of_which_may_be_told_apart_are_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = TrainConfig(places=SMALL.places.model_copy(update={"min_gap_s": 100.0}))
    with caplog.at_level(logging.ERROR), pytest.raises(SourceError, match=r"5 places .*lower .*places.min_gap_s"):
        read([recording(tmp_path / "drive")], tmp_path, config)
