from __future__ import annotations

import logging
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from progeo_edge.errors import SourceError
from progeo_edge.geometry import Camera
from progeo_edge.sources import open_source
from tests.sources.image_files import pose

pytest.importorskip("rosbags", reason="bags need the extra: pip install 'progeo-edge[bags]'")
from tests.sources.bag_writer import FORMATS, Messages

S = 10**9
START_NS = 1_700_000_000 * S
IDENTITY = (0.0, 0.0, 0.0, 1.0)


def _grey_bag(folder: Path, bag_format: str, num_images: int = 5) -> Path:
    messages = Messages(bag_format)
    for index in range(num_images):
        stamp_ns = START_NS + index * S // 10
        messages.add("/cam/image_raw", stamp_ns + 5_000_000, messages.grey(stamp_ns, 40 + index))
    return messages.write(folder)


@pytest.mark.parametrize("bag_format", FORMATS)
def test_images_carry_header_stamps_and_names(tmp_path, bag_format):
    source = open_source(_grey_bag(tmp_path, bag_format))
    frames = list(source)
    assert source.num_frames == 5
    assert [frame.stamp_ns for frame in frames] == [START_NS + index * S // 10 for index in range(5)]
    assert [int(frame.image[0, 0]) for frame in frames] == [40, 41, 42, 43, 44]
    assert frames[2].name == "/cam/image_raw#2"
    assert [frame.name for frame in source] == [frame.name for frame in frames]


@pytest.mark.parametrize(("bag_format", "suffix"), [("sqlite3", ".db3"), ("mcap", ".mcap")])
def test_ros2_storage_file_alone(tmp_path, bag_format, suffix):
    folder = _grey_bag(tmp_path, bag_format)
    (file,) = folder.glob(f"*{suffix}")
    assert len(list(open_source(file))) == 5
    (folder / "metadata.yaml").unlink()
    assert len(list(open_source(folder))) == 5


@pytest.mark.parametrize("bag_format", FORMATS)
def test_unset_header_stamps_fall_back_to_recording_times(tmp_path, bag_format):
    messages = Messages(bag_format)
    for index in range(3):
        messages.add("/image", START_NS + index * S, messages.grey(0, 100))
    frames = list(open_source(messages.write(tmp_path)))
    assert [frame.stamp_ns for frame in frames] == [START_NS, START_NS + S, START_NS + 2 * S]


@pytest.mark.parametrize("bag_format", FORMATS)
def test_truncated_image_data_are_skipped(tmp_path, bag_format):
    messages = Messages(bag_format)
    for index in range(6):
        message = messages.grey(START_NS + index * S, 50)
        if index == 3:
            message.data = message.data[:20]
        messages.add("/image", START_NS + index * S, message, cut_bytes=30 if index == 4 else 0)
    source = open_source(messages.write(tmp_path))
    assert [frame.name for frame in source] == ["/image#0", "/image#1", "/image#2", "/image#5"]
    assert [skipped.name for skipped in source.skipped] == ["/image#3", "/image#4"]
    assert "20 bytes instead of 48" in source.skipped[0].reason


def test_a_message_without_room_for_a_header_is_skipped(tmp_path):
    messages = Messages("sqlite3")
    for index in range(3):
        message = messages.grey(START_NS + index * S, 50)
        messages.add("/image", START_NS + index * S, message, cut_bytes=95 if index == 1 else 0)
    source = open_source(messages.write(tmp_path))
    assert len(list(source)) == 2
    assert len(source.skipped) == 1


@pytest.mark.parametrize("bag_format", FORMATS)
def test_compressed_images(tmp_path, bag_format):
    messages = Messages(bag_format)
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    png = cv2.imencode(".png", picture)[1].tobytes()
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    for index, (data, name) in enumerate([(png, "png"), (jpeg, "jpeg"), (jpeg[: len(jpeg) // 2], "jpeg")]):
        messages.add("/cam/compressed", START_NS + index * S, messages.compressed(START_NS + index * S, data, name))
    source = open_source(messages.write(tmp_path))
    frames = list(source)
    np.testing.assert_array_equal(frames[0].image, picture)
    assert frames[1].image.shape == (20, 30, 3)
    assert [skipped.name for skipped in source.skipped] == ["/cam/compressed#2"]


@pytest.mark.parametrize("bag_format", FORMATS)
def test_odometry_is_interpolated_to_the_image(tmp_path, bag_format):
    messages = Messages(bag_format)
    quarter = (0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5))
    messages.add("/odom", START_NS, messages.odometry(START_NS, (0.0, 0.0, 0.0), IDENTITY))
    late_ns = START_NS + 400_000_000
    messages.add("/odom", late_ns, messages.odometry(late_ns, (4.0, 2.0, 0.0), quarter))
    for offset_ms in (100, 400, 500):
        stamp_ns = START_NS + offset_ms * 1_000_000
        messages.add("/image", stamp_ns, messages.grey(stamp_ns, 9))
    between, at_end, beyond = open_source(messages.write(tmp_path))
    angle = np.pi / 8
    expected = [[np.cos(angle), -np.sin(angle), 0, 1.0], [np.sin(angle), np.cos(angle), 0, 0.5], [0, 0, 1, 0]]
    np.testing.assert_allclose(pose(between)[:3], expected, atol=1e-9)
    np.testing.assert_allclose(pose(at_end)[:3, 3], [4, 2, 0], atol=1e-12)
    assert beyond.T_odom_base is None


@pytest.mark.parametrize("bad", [(np.nan, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 3.0, 4.0)])
def test_bad_odometry_gives_no_pose_and_is_logged_once(tmp_path, caplog, bad):
    messages = Messages("mcap")
    for index in range(7):
        stamp_ns = START_NS + index * S // 10
        quaternion = bad if index in (2, 5) else IDENTITY
        messages.add("/odom", stamp_ns, messages.odometry(stamp_ns, (index, 0.0, 0.0), quaternion))
        messages.add("/image", stamp_ns, messages.grey(stamp_ns, 9))
    with caplog.at_level(logging.WARNING):
        frames = list(open_source(messages.write(tmp_path)))
    assert [frame.T_odom_base is None for frame in frames] == [index in (2, 5) for index in range(7)]
    assert [record.message for record in caplog.records if "2 of 7 poses" in record.message] != []
    assert sum("poses" in record.message for record in caplog.records) == 1


def test_odometry_can_be_switched_off_and_has_to_be_chosen(tmp_path):
    messages = Messages("sqlite3")
    for topic in ("/odom/wheel", "/odom/visual"):
        messages.add(topic, START_NS, messages.odometry(START_NS, (1.0, 0.0, 0.0), IDENTITY))
    messages.add("/image", START_NS, messages.grey(START_NS, 9))
    bag = messages.write(tmp_path)
    with pytest.raises(SourceError, match=r"several odometry topics.*/odom/visual \(nav_msgs/Odometry, 1\)"):
        open_source(bag)
    assert next(iter(open_source(bag, odom_topic="none"))).T_odom_base is None
    assert next(iter(open_source(bag, odom_topic="/odom/wheel"))).T_odom_base is not None


@pytest.mark.parametrize("bag_format", FORMATS)
def test_camera_info_and_static_transforms(tmp_path, bag_format):
    messages = Messages(bag_format)
    half = 0.5
    messages.add("/tf_static", START_NS, messages.static_transform("mast", "base_link", (0.0, 0.0, -1.0), IDENTITY))
    messages.add(
        "/tf_static", START_NS, messages.static_transform("mast", "camera", (0.2, 0.0, 0.0), (-half, half, -half, half))
    )
    messages.add("/cam/camera_info", START_NS, messages.camera_info())
    messages.add("/odom", START_NS, messages.odometry(START_NS, (0.0, 0.0, 0.0), IDENTITY))
    messages.add("/cam/image_raw", START_NS, messages.grey(START_NS, 9))
    camera = open_source(messages.write(tmp_path)).camera
    assert isinstance(camera, Camera)
    assert (camera.model, camera.width_px, camera.height_px) == ("pinhole", 8, 6)
    np.testing.assert_allclose(camera.K, np.array([[10.0, 0, 4], [0, 10, 3], [0, 0, 1]]))
    np.testing.assert_allclose(camera.distortion, [0.1, 0, 0, 0, 0])
    forward = np.array([[0, 0, 1, 0.2], [-1, 0, 0, 0], [0, -1, 0, 1.0], [0, 0, 0, 1]])
    np.testing.assert_allclose(camera.T_base_camera, forward, atol=1e-12)


def test_without_static_transforms_the_camera_looks_forward(tmp_path, caplog):
    messages = Messages("mcap")
    messages.add("/cam/camera_info", START_NS, messages.camera_info())
    messages.add("/odom", START_NS, messages.odometry(START_NS, (0.0, 0.0, 0.0), IDENTITY))
    messages.add("/cam/image_raw", START_NS, messages.grey(START_NS, 9))
    camera = open_source(messages.write(tmp_path)).camera
    assert isinstance(camera, Camera)
    np.testing.assert_allclose(camera.T_base_camera[:3, :3] @ [0, 0, 1], [1, 0, 0])
    assert "no static transform from 'base_link' to 'camera'" in caplog.text


def test_rectified_topics_use_the_projection_and_the_baseline(tmp_path):
    messages = Messages("mcap")
    messages.add("/left/camera_info", START_NS, messages.camera_info())
    messages.add("/right/camera_info", START_NS, messages.camera_info(right_tx=-2.4))
    for index in range(3):
        stamp_ns = START_NS + index * S // 10
        messages.add("/left/image_rect", stamp_ns, messages.grey(stamp_ns, 50 + index))
        messages.add("/right/image_rect", stamp_ns + 150_000_000, messages.grey(stamp_ns + 1_000_000, 80 + index))
    source = open_source(messages.write(tmp_path), image_topic="/left/image_rect", right_topic="/right/image_rect")
    camera = source.camera
    assert isinstance(camera, Camera)
    assert camera.K[0, 0] == 20.0
    assert camera.distortion.size == 0
    assert camera.baseline_m == pytest.approx(0.12)
    assert [int(frame.right[0, 0]) for frame in source if frame.right is not None] == [80, 81, 82]


@pytest.mark.parametrize(
    "fields",
    [{"fx": 0.0}, {"model": "omnidirectional"}, {"width": 0}, {"distortion": (0.1, 0.2, 0.3)}],
)
def test_an_uncalibrated_camera_info_gives_no_camera(tmp_path, caplog, fields):
    messages = Messages("sqlite3")
    messages.add("/camera_info", START_NS, messages.camera_info(**fields))
    messages.add("/image_raw", START_NS, messages.grey(START_NS, 9))
    source = open_source(messages.write(tmp_path))
    assert source.camera is None
    assert "give a camera" in caplog.text
    assert len(list(source)) == 1


def test_camera_info_of_fisheye_and_of_a_region(tmp_path):
    messages = Messages("ros1")
    info = messages.camera_info(16, 12, model="equidistant", distortion=(0.1, 0.2, 0.3, 0.4), roi=(2, 1, 8, 6))
    messages.add("/camera_info", START_NS, info)
    messages.add("/image_raw", START_NS, messages.grey(START_NS, 9))
    camera = open_source(messages.write(tmp_path)).camera
    assert isinstance(camera, Camera)
    assert (camera.model, camera.width_px, camera.height_px) == ("fisheye", 8, 6)
    assert (camera.K[0, 2], camera.K[1, 2]) == (2.0, 2.0)


def test_depth_is_paired_by_stamp(tmp_path):
    messages = Messages("mcap")
    for index in range(10):
        stamp_ns = START_NS + index * S // 10
        rows = np.full((6, 8), 1000 + index, "<u2").view(np.uint8)
        depth_ns = stamp_ns + (15_000_000 if index != 4 else 40_000_000)
        messages.add("/depth", depth_ns, messages.image(depth_ns, rows, "16UC1", 8))
        messages.add("/image", stamp_ns + 30_000_000, messages.grey(stamp_ns, index))
    source = open_source(messages.write(tmp_path), image_topic="/image", depth_topic="/depth")
    depths = [None if frame.depth_m is None else float(frame.depth_m[0, 0]) for frame in source]
    assert depths == [None if index == 4 else pytest.approx(1.0 + index / 1000) for index in range(10)]


def test_depth_of_another_size_is_left_out(tmp_path, caplog):
    messages = Messages("mcap")
    rows = np.full((3, 4), 1000, "<u2").view(np.uint8)
    messages.add("/depth", START_NS, messages.image(START_NS, rows, "16UC1", 4))
    messages.add("/image", START_NS, messages.grey(START_NS, 7))
    (frame,) = open_source(messages.write(tmp_path), image_topic="/image", depth_topic="/depth")
    assert frame.depth_m is None
    assert "/depth left out" in caplog.text


@pytest.mark.parametrize("bag_format", FORMATS)
def test_topics_are_listed_when_one_has_to_be_chosen(tmp_path, bag_format):
    messages = Messages(bag_format)
    messages.add("/left", START_NS, messages.grey(START_NS, 9))
    messages.add("/right", START_NS, messages.grey(START_NS, 9))
    messages.add("/right", START_NS + 1, messages.grey(START_NS + 1, 9))
    messages.add("/odom", START_NS, messages.odometry(START_NS, (0.0, 0.0, 0.0), IDENTITY))
    bag = messages.write(tmp_path)
    with pytest.raises(SourceError, match=r"several image topics.*/left \(sensor_msgs/Image, 1\).*/right .*, 2\)"):
        open_source(bag)
    with pytest.raises(SourceError, match=r"topic /middle of bag .* does not exist"):
        open_source(bag, image_topic="/middle")
    with pytest.raises(SourceError, match=r"topic /odom of bag .* is a nav_msgs/msg/Odometry; expected sensor_msgs"):
        open_source(bag, image_topic="/odom")
    assert len(list(open_source(bag, image_topic="/right"))) == 2


def test_a_bag_without_images(tmp_path):
    messages = Messages("mcap")
    messages.add("/odom", START_NS, messages.odometry(START_NS, (0.0, 0.0, 0.0), IDENTITY))
    with pytest.raises(SourceError, match="no image topic"):
        open_source(messages.write(tmp_path))


@pytest.mark.parametrize("bag_format", FORMATS)
def test_cut_off_bags_are_refused_with_the_remedy(tmp_path, bag_format):
    path = _grey_bag(tmp_path, bag_format)
    file = path if path.is_file() else next(file for file in path.iterdir() if file.suffix in (".mcap", ".db3"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    with pytest.raises(SourceError, match=r"cannot be read.*reindex"):
        list(open_source(path))


@pytest.mark.parametrize("suffix", [".bag", ".mcap", ".db3"])
def test_files_that_are_no_bags(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"this is no bag at all" * 40)
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(path)


def test_damage_in_the_middle_keeps_what_came_before(tmp_path, caplog):
    messages = Messages("ros1")
    noise = np.random.default_rng(0)
    for index in range(40):
        stamp_ns = START_NS + index * S
        rows = noise.integers(0, 255, (200, 300), np.uint8)
        messages.add("/image", stamp_ns, messages.image(stamp_ns, rows, "mono8", 300))
    bag = messages.write(tmp_path)
    data = bytearray(bag.read_bytes())
    second_chunk = data.index(b"\x04\x22\x4d\x18", data.index(b"\x04\x22\x4d\x18") + 4)  # magic number of LZ4
    data[second_chunk : second_chunk + 4] = bytes(4)
    bag.write_bytes(data)
    source = open_source(bag)
    frames = list(source)
    assert 10 <= len(frames) < 40
    assert [skipped.name for skipped in source.skipped] == [f"/image#{len(frames)}"]
    assert "cannot be read any further" in source.skipped[0].reason
    assert "cannot be read any further" in caplog.text


def test_rate_keeps_every_third(tmp_path):
    source = open_source(_grey_bag(tmp_path, "mcap", 10), rate_hz=10 / 3)
    assert [frame.name for frame in source] == [f"/cam/image_raw#{index}" for index in (0, 3, 6, 9)]


def test_the_users_camera_wins(tmp_path):
    camera = Camera("pinhole", 8, 6, np.diag([5.0, 5.0, 1.0]))
    assert open_source(_grey_bag(tmp_path, "mcap"), camera=camera).camera is camera


def test_missing_extra_names_the_command(tmp_path, monkeypatch):
    bag = _grey_bag(tmp_path, "ros1")
    monkeypatch.setitem(sys.modules, "rosbags.highlevel", None)
    with pytest.raises(SourceError, match=r"pip install 'progeo-edge\[bags\]'"):
        open_source(bag)


# -- rigs --------------------------------------------------------------------------------------------------------


def _rig_bag(folder: Path, bag_format: str, *, with_mountings: bool = True) -> Path:
    messages = Messages(bag_format)
    for index in range(4):
        stamp_ns = START_NS + index * S // 10
        messages.add("/front/image_raw", stamp_ns, messages.grey(stamp_ns, 40 + index))
        messages.add("/rear/image_raw", stamp_ns + 1_000_000, messages.grey(stamp_ns + 1_000_000, 140 + index))
        messages.add("/odom", stamp_ns, messages.odometry(stamp_ns, (float(index), 0.0, 0.0), IDENTITY))
    for name in ("front", "rear"):
        messages.add(f"/{name}/camera_info", START_NS, messages.camera_info(frame_id=f"{name}_optical"))
    if with_mountings:
        front = messages.static_transform("base_link", "front_optical", (0.3, 0.0, 1.0), (-0.5, 0.5, -0.5, 0.5))
        rear = messages.static_transform("base_link", "rear_optical", (-0.3, 0.0, 1.0), (-0.5, -0.5, 0.5, 0.5))
        messages.add("/tf_static", START_NS, front)
        messages.add("/tf_static", START_NS, rear)
    return messages.write(folder)


TOPICS = "front=/front/image_raw,rear=/rear/image_raw"


@pytest.mark.parametrize("bag_format", FORMATS)
def test_several_image_topics_are_a_rig(tmp_path, bag_format):
    source = open_source(_rig_bag(tmp_path, bag_format), image_topic=TOPICS)
    frames = list(source)
    assert [(frame.camera, int(frame.image[0, 0])) for frame in frames[:4]] == [
        ("front", 40),
        ("rear", 140),
        ("front", 41),
        ("rear", 141),
    ]
    assert source.num_frames == len(frames) == 8
    assert frames[1].stamp_ns == frames[0].stamp_ns + 1_000_000
    np.testing.assert_allclose(pose(frames[2])[:3, 3], [1.0, 0, 0])
    np.testing.assert_allclose(pose(frames[3])[:3, 3], [1.01, 0, 0])
    assert isinstance(source.camera, dict)
    looks = {name: camera.T_base_camera[:3, :3] @ [0, 0, 1] for name, camera in source.camera.items()}
    np.testing.assert_allclose(looks["front"], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(looks["rear"], [-1, 0, 0], atol=1e-12)


def test_a_rig_without_static_transforms_is_refused(tmp_path):
    """All its cameras would look forward."""
    with pytest.raises(SourceError, match="front and rear stand at one place"):
        open_source(_rig_bag(tmp_path, "mcap", with_mountings=False), image_topic=TOPICS)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"depth_topic": "/depth"}, "does not say of which camera"),
        ({"depth_topic": "left=/depth"}, "depth_topic names left, image_topic front, rear"),
        ({"image_topic": "/front/image_raw", "depth_topic": "front=/depth"}, "image_topic does not"),
    ],
)
def test_topics_beside_a_rig_s_images_name_their_camera(tmp_path, options, expected):
    with pytest.raises(SourceError, match=expected):
        open_source(_rig_bag(tmp_path, "mcap"), **{"image_topic": TOPICS, **options})
