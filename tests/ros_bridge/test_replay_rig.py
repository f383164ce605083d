"""progeo-replay of a rig: the rear camera recognises on the way back what the front camera saw on the way there."""

from __future__ import annotations

import numpy as np
import pytest

from progeo_edge.geometry import make_transform, quaternion_xyzw, rotation_exp
from progeo_edge.map_store import MapStore
from tests.ros_bridge.replaying import SETTINGS, Written
from tests.small_world import NUM_POSES, camera, two_passes
from tests.sources.bag_writer import Messages

TOPICS = [f"--topic={name}/{kind}=/{name}/{kind}" for name in ("front", "rear") for kind in ("image", "depth")]
BACKWARDS = make_transform(rotation_exp([0.0, 0.0, np.pi]), [0.0, 0.0, 0.0])


def write_rig(folder):
    """Two cameras back to back. The robot drives there, and comes back without seeing with its front what it saw then.

    What the other camera sees meanwhile are pictures of noise.
    """
    messages, rng = Messages("mcap"), np.random.default_rng(0)
    frames = two_passes()[0]
    mountings = {"front": camera().T_base_camera, "rear": BACKWARDS @ camera().T_base_camera}
    for name, T in mountings.items():
        link = messages.static_transform("base_link", name, tuple(T[:3, 3]), tuple(quaternion_xyzw(T[:3, :3])))
        messages.add("/tf_static", frames[0].stamp_ns, link)
    for i, frame in enumerate(frames):
        looking = "front" if i < NUM_POSES else "rear"
        assert frame.T_odom_base is not None and frame.depth_m is not None
        T = frame.T_odom_base if i < NUM_POSES else frame.T_odom_base @ BACKWARDS
        height_px, width_px = frame.image.shape[:2]
        pose = messages.odometry(frame.stamp_ns, tuple(T[:3, 3]), tuple(quaternion_xyzw(T[:3, :3])))
        messages.add("/odom", frame.stamp_ns, pose)
        for name in mountings:
            info = messages.camera_info(width_px, height_px, distortion=(), intrinsics=camera().K, frame_id=name)
            noise = rng.integers(0, 256, frame.image.shape, np.uint8)
            pixels = (frame.image if name == looking else noise).reshape(height_px, -1)
            depth = np.ascontiguousarray(frame.depth_m).view(np.uint8)
            for topic, message in (
                ("camera_info", info),
                ("depth", messages.image(frame.stamp_ns, depth, "32FC1", width_px)),
                ("image", messages.image(frame.stamp_ns, pixels, "bgr8", width_px)),
            ):
                message.header.frame_id = name
                messages.add(f"/{name}/{topic}", frame.stamp_ns + 2_000_000, message)
        messages.add("/odom", frame.stamp_ns + 10_000_000, pose)
    return messages.write(folder)


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return write_rig(tmp_path_factory.mktemp("rig"))


def test_the_way_back_closes_on_the_way_there(command, bag, tmp_path):
    out = tmp_path / "out.mcap"
    code, said, error = command(bag, "--out", out, *SETTINGS, *TOPICS)
    assert code == 0, error
    assert f"{4 * NUM_POSES} keyframes of {4 * NUM_POSES} images, from /front/image, /rear/image" in said
    written = Written(out)
    assert [keyframe.camera for keyframe in written.messages["/keyframes"]] == ["front", "rear"] * (2 * NUM_POSES)
    closures = written.messages["/loop_closures"]
    assert len(closures) >= NUM_POSES - 1
    for closure in closures:
        assert (closure.query_camera, closure.reference_camera) == ("rear", "front")
        assert closure.is_reverse
        assert closure.heading_change_deg == pytest.approx(180.0, abs=3.0)
        assert closure.verification.pose_kind == closure.verification.POSE_METRIC
        position = closure.verification.t_reference_query.pose.position
        # Both cameras look the same way from the same spot, 15 cm aside; the references are up to one step away.
        assert np.hypot(position.x, position.y) < 3.0
    candidates = written.messages["/loop_candidates"][-1].candidates
    assert {candidate.reference_camera for candidate in candidates} <= {"front", "rear"}
    values = {value.key: value.value for value in written.messages["/diagnostics"][-1].status[0].values}
    assert values["calibration [front]"] == values["calibration [rear]"] == "none yet"
    with MapStore.open(tmp_path / "out.progeo", read_only=True) as store:
        (session,) = store.sessions()
        assert isinstance(session.camera, dict)
        assert sorted(session.camera) == ["front", "rear"]


def test_images_of_a_camera_that_are_not_named_are_asked_for(command, bag, tmp_path):
    code, _, error = command(bag, "--out", tmp_path / "out.mcap", *TOPICS[:1], "--set", "input.cameras=[front, rear]")
    assert code != 0
    assert "give --topic rear/image=" in error
    code, _, error = command(bag, "--out", tmp_path / "out.mcap", "--topic", "front/pictures=/front/image")
    assert code != 0
    assert "or CAMERA/image and so on for the cameras of a rig" in error
