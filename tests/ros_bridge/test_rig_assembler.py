"""Images of several cameras, brought together by their time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from progeo_edge.camera_file import cameras_to_dict
from progeo_edge.errors import ConfigError
from progeo_edge.geometry import Camera
from progeo_ros.config import NodeConfig
from progeo_ros.frame_assembler import FrameAssembler
from progeo_ros.rig_assembler import RigAssembler, open_assembler
from tests.ros_bridge.messages import SECOND, camera_info, image, transforms, turned

MS = 1_000_000
TENTH = SECOND // 10
T0 = 100 * SECOND
CAMERAS = ("front", "rear")


def node_config(**inputs: Any) -> NodeConfig:
    values = {"cameras": CAMERAS, "odometry": "none", "max_rate_hz": 1000.0, **inputs}
    return NodeConfig.model_validate({"input": values})


class Rig:
    """An assembler of two cameras with short ways to feed it; images arrive 20 ms after their stamp."""

    def __init__(self, *, ready: bool = True, keep_all: bool = False, **inputs: Any) -> None:
        self.assembler = RigAssembler(node_config(**inputs), None, keep_all=keep_all)
        for name in CAMERAS if ready else ():
            self.introduce(name)

    def introduce(self, name: str) -> None:
        part = self.assembler.parts[f"{name}/"]
        part.on_camera_info(camera_info(fx=50.0 if name == "front" else 60.0))
        link = ("base_link", name, turned(0.3, yaw=0.0 if name == "front" else np.pi))
        part.on_transforms(transforms(0, link), is_static=True)

    def image(self, name: str, stamp_ns: int, *, delay_ns: int = 20 * MS) -> None:
        message = image(stamp_ns, frame_id=name)
        self.assembler.parts[f"{name}/"].on_image(message, stamp_ns + delay_ns)

    def moment(self, now_ns: int | None = None) -> list[tuple[str, int]]:
        """Cameras, and milliseconds since T0."""
        popped = self.assembler.pop_moment(now_ns)
        return [(pending.camera_name, (pending.stamp_ns - T0) // MS) for pending in popped]


def test_a_moment_is_whole_when_every_camera_has_given_its_image():
    rig = Rig()
    rig.image("rear", T0 + 5 * MS)
    assert rig.moment() == []
    rig.image("front", T0)
    assert rig.moment() == [("front", 0), ("rear", 5)]
    assert rig.moment() == []


def test_frames_say_which_camera_and_bring_the_whole_rig():
    rig = Rig()
    for name in CAMERAS:
        rig.image(name, T0)
    frames = [rig.assembler.decode(pending) for pending in rig.assembler.pop_moment()]
    assert [frame.frame.camera for frame in frames] == ["front", "rear"]
    for frame in frames:
        assert isinstance(frame.camera, dict)
        assert [camera.K[0, 0] for camera in frame.camera.values()] == [50.0, 60.0]
        assert (frame.base_frame, frame.generation) == ("base_link", 0)


def test_a_camera_that_is_late_is_not_waited_for_long():
    rig = Rig()
    for name in CAMERAS:
        rig.image(name, T0)
    rig.moment()
    rig.image("front", T0 + TENTH)
    assert rig.moment(T0 + TENTH + 500 * MS) == []
    assert rig.moment(T0 + TENTH + 520 * MS) == [("front", 100)]
    rig.image("rear", T0 + TENTH)
    rig.image("front", T0 + 2 * TENTH)
    assert rig.moment() == [("rear", 100)], "the other camera holds a later one: nothing can be added"


def test_at_the_start_cameras_are_given_time():
    rig = Rig(ready=False)
    rig.introduce("front")
    rig.image("front", T0)
    assert rig.moment(T0 + 4 * SECOND) == []
    rig.introduce("rear")
    rig.image("rear", T0, delay_ns=4 * SECOND)
    assert rig.moment() == [("front", 0), ("rear", 0)]


def test_a_rig_that_is_not_known_as_a_whole_has_no_poses():
    rig = Rig(ready=False)
    rig.introduce("front")
    rig.image("front", T0)
    (pending,) = rig.assembler.pop_moment(T0 + 6 * SECOND)
    assert rig.assembler.decode(pending).camera is None
    assert not rig.assembler.has_camera
    assert rig.assembler.waiting_for == "rear: images"


def test_the_rate_is_that_of_moments():
    rig = Rig(max_rate_hz=10.0)
    kept = []
    for k in range(90):
        for name in CAMERAS:
            rig.image(name, T0 + k * SECOND // 30)
        kept += rig.moment()
    assert len(kept) == 2 * 30
    assert [name for name, _ in kept] == list(CAMERAS) * 30
    counts = rig.assembler.counts
    assert (counts.received, counts.dropped_by_rate, counts.dropped_by_newer) == (180, 120, 0)


def test_a_recording_gives_every_moment_in_its_order():
    rig = Rig(keep_all=True)
    for k in range(3):
        rig.image("front", T0 + k * TENTH)
    for k in range(3):
        rig.image("rear", T0 + k * TENTH)
    moments = []
    while moment := rig.moment():
        moments.append(moment)
    assert moments == [[("front", 100 * k), ("rear", 100 * k)] for k in range(3)]


def test_stamps_that_jump_back_begin_a_new_generation_once():
    rig = Rig(max_rate_hz=10.0)
    for name in CAMERAS:
        rig.image(name, T0 + 50 * SECOND)
    rig.moment()
    rig.image("front", T0 + 51 * SECOND)
    rig.moment()
    generations = []
    for k in range(2):
        for name in CAMERAS:
            rig.image(name, T0 + k * SECOND, delay_ns=60 * SECOND)
        generations += [pending.generation for pending in rig.assembler.pop_moment()]
    assert generations == [1, 1, 1, 1]


def test_what_concerns_all_cameras_is_said_once():
    rig = Rig()
    nowhere = turned()
    nowhere[0, 3] = np.nan
    for part in rig.assembler.parts.values():
        part.on_transforms(transforms(0, ("base_link", "arm", nowhere)), is_static=True)
    rig.assembler.parts["rear/"].on_camera_info(camera_info(fx=0.0))
    problems = rig.assembler.problems
    assert len(problems) == 2
    assert problems[0].startswith("tf from base_link to arm is left out")
    assert problems[1].startswith("rear: camera_info is not usable")
    assert rig.assembler.take_events() == ["rear: camera_info changed: it is 64x48 px now"]
    assert rig.assembler.take_events() == []


def test_the_settings_decide_between_one_camera_and_a_rig(tmp_path):
    assert isinstance(open_assembler(NodeConfig()), FrameAssembler)
    assert list(open_assembler(node_config()).parts) == ["front/", "rear/"]
    path = tmp_path / "rig.yaml"
    K = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
    turned_camera = Camera("pinhole", 64, 48, K, T_base_camera=turned(yaw=1.0))

    def opened(known: Any, **inputs: Any) -> Any:
        import yaml

        path.write_text(yaml.safe_dump(cameras_to_dict(known)))
        config = node_config(**inputs)
        return open_assembler(
            config.model_copy(update={"camera": config.camera.model_copy(update={"file": str(path)})})
        )

    rig = {"front": Camera("pinhole", 64, 48, K, T_base_camera=turned()), "rear": turned_camera}
    assert opened(rig).has_camera
    for known in (turned_camera, {"front": rig["front"], "left": turned_camera}):
        with pytest.raises(ConfigError, match="has not all of front, rear"):
            opened(known)
    with pytest.raises(ConfigError, match="holds the rig front, rear; expected one camera"):
        opened(rig, cameras=())
    with pytest.raises(ConfigError, match="names images of one camera"):
        open_assembler(node_config(external_keyframes=True))
