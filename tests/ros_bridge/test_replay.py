"""progeo-replay as a user calls it: a bag of a rendered street in, the topics of the node out."""

from __future__ import annotations

import hashlib
import subprocess

import numpy as np
import pytest
from rosbags.interfaces import QosDurability

from progeo_edge.config import config_from_dict, load_config
from progeo_edge.detector import LoopDetector
from progeo_edge.map_store import MapStore
from progeo_edge.sources.bag import open_bag
from progeo_edge.types import Status
from progeo_ros.conversions.outgoing import STATUS_CODES
from progeo_ros.message_types import stamp_ns_of
from tests.ros_bridge.replaying import ENVIRONMENT, PROGRAM, WITH_DEPTH, Written
from tests.ros_bridge.street_bag import DEPTH, IMAGE, INFO, ODOM, write_street
from tests.small_world import LIGHT, camera, encoder, two_passes

STAMPS_NS = [frame.stamp_ns for frame in two_passes()[0]]
DESCRIPTOR = 512


def replayed(bag_format, folder):
    """A replay of both passes with depth, called as a program."""
    bag = write_street(folder, bag_format)
    out = folder / "out.mcap"
    command = [*PROGRAM, bag, "--out", out, "--with-inputs", *WITH_DEPTH]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    return bag, out, done


@pytest.fixture(scope="module", params=["ros1", "mcap"])
def replay(request, tmp_path_factory):
    bag, out, done = replayed(request.param, tmp_path_factory.mktemp(request.param))
    assert done.returncode == 0, done.stderr
    return bag, out, done, Written(out)


def closures_of_run(bag, folder):
    """What progeo-run finds in the same bag with the same settings."""
    config = load_config(overrides=(*LIGHT, "budget.max_verifications=1"))
    frames = open_bag(bag, image_topic=IMAGE, depth_topic=DEPTH)
    found = []
    with MapStore.create(folder / "run.progeo", encoder().spec, descriptor_dtype="float16") as store:
        detector = LoopDetector(encoder(), store, frames.camera, config_from_dict(config.model_dump()))
        for frame in frames:
            for closure in detector.process(frame).closures:
                found.append((frame.stamp_ns, {i.id: i for i in store.infos()}[closure.reference_id].stamp_ns, closure))
    return found


# -- what is written -------------------------------------------------------------------------------------------------


def test_closures_are_those_of_progeo_run(replay, tmp_path):
    bag, _, _, written = replay
    expected = closures_of_run(bag, tmp_path)
    messages = written.messages["/loop_closures"]
    assert len(expected) >= 3
    assert [(stamp_ns_of(m.header.stamp), stamp_ns_of(m.reference_stamp)) for m in messages] == [
        (query_ns, reference_ns) for query_ns, reference_ns, _ in expected
    ]
    for message, (_, _, closure) in zip(messages, expected, strict=True):
        position = message.verification.t_reference_query.pose.position
        T = closure.verification.T_reference_query
        assert message.verification.num_inliers == closure.verification.num_inliers
        np.testing.assert_allclose([position.x, position.y, position.z], T[:3, 3], atol=1e-9)
        assert message.verification.pose_kind == 3, "METRIC, by depth"


def test_every_image_has_its_reason(replay):
    _, _, _, written = replay
    assert written.stamps_ns("/loop_candidates") == STAMPS_NS
    statuses = [message.status.value for message in written.messages["/loop_candidates"]]
    assert statuses[0] == STATUS_CODES[Status.NO_CANDIDATE]
    assert statuses.count(STATUS_CODES[Status.ACCEPTED]) == len(set(written.stamps_ns("/loop_closures")))
    refused = [c for m in written.messages["/loop_candidates"] for c in m.candidates if c.status.value != 0]
    assert refused, "candidates that were not accepted say why"


def test_keyframes_and_descriptors_are_those_of_the_map(replay):
    _, out, _, written = replay
    assert written.stamps_ns("/keyframes") == written.stamps_ns("/global_descriptor") == STAMPS_NS
    with MapStore.open(out.with_suffix(".progeo"), spec=encoder().spec, read_only=True) as store:
        for message, keyframe in zip(written.messages["/global_descriptor"], store.infos(), strict=True):
            vector = np.frombuffer(message.data, "<f4")
            assert (len(vector), message.dimension) == (DESCRIPTOR, DESCRIPTOR)
            assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
            np.testing.assert_allclose(vector, store.keyframe(keyframe.id).descriptor, atol=1e-3)
        poses = [message.pose.position.x for message in written.messages["/keyframes"]]
        np.testing.assert_allclose(
            poses, [T[0, 3] for info in store.infos() if (T := info.T_odom_base) is not None], atol=1e-9
        )


def test_stamps_are_those_of_images(replay):
    _, _, _, written = replay
    for topic in ("/loop_closures", "/relocalization_pose", "/match_image", "/keyframes"):
        assert set(written.stamps_ns(topic)) <= set(STAMPS_NS), topic
    assert len(written.messages["/match_image"]) == len(set(written.stamps_ns("/loop_closures")))


def test_everything_is_read_back_byte_for_byte(replay):
    _, _, _, written = replay
    assert {"/loop_closures", "/loop_candidates", "/loop_markers", "/diagnostics"} <= set(written.messages)
    assert written.changed == []


def test_diagnostics_come_in_the_time_of_the_recording(replay):
    _, _, _, written = replay
    span_s = (STAMPS_NS[-1] - STAMPS_NS[0]) * 1e-9
    assert len(STAMPS_NS) // 2 < len(written.messages["/diagnostics"]) <= span_s + 1
    last = written.messages["/diagnostics"][-1].status[0]
    values = {item.key: item.value for item in last.values}
    assert values["keyframes of this run"] == values["map keyframes"] == "12"
    assert values["model id"] == encoder().spec.fingerprint
    assert values["loop closures"] == str(len(written.messages["/loop_closures"]))


def test_late_joiners_get_closures(replay):
    _, _, _, written = replay
    assert written.qos["/loop_closures"].durability == QosDurability.TRANSIENT_LOCAL
    assert written.qos["/loop_candidates"].durability == QosDurability.VOLATILE


def test_inputs_are_carried_over(replay):
    _, _, _, written = replay
    frame = two_passes()[0][0]
    image = written.messages[IMAGE][0]
    assert (image.encoding, image.height, image.width) == ("bgr8", *frame.image.shape[:2])
    rows = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)
    np.testing.assert_array_equal(rows[:, : 3 * image.width].reshape(frame.image.shape), frame.image)
    np.testing.assert_allclose(written.messages[INFO][0].k, camera().K.ravel())
    assert len(written.messages[ODOM]) == len(written.messages[DEPTH]) == 12
    (mounting,) = written.messages["/tf_static"]
    assert mounting.transforms[0].child_frame_id == "camera"
    assert written.qos["/tf_static"].durability == QosDurability.TRANSIENT_LOCAL


def test_the_summary_says_what_was_found_and_why_not_more(replay):
    _, out, done, written = replay
    text = done.stdout
    assert f"{len(written.messages['/loop_closures'])} loop closures in 12 keyframes of 12 images" in text
    assert "no closure because: NO_CANDIDATE" in text
    assert str(out) in text and str(out.with_suffix(".progeo")) in text
    assert done.stderr == ""


# -- maps and settings -------------------------------------------------------------------------------------------------


def test_a_known_map_is_recognised_and_not_changed(command, first_pass, tmp_path):
    second = write_street(tmp_path, "ros1", passes=(1,))
    assert command(first_pass, "--out", tmp_path / "first.mcap", *WITH_DEPTH)[0] == 0
    known = tmp_path / "first.progeo"
    before = hashlib.sha256(known.read_bytes()).digest()
    assert command(second, "--out", tmp_path / "second.mcap", "--map", known, *WITH_DEPTH)[0] == 0
    assert hashlib.sha256(known.read_bytes()).digest() == before
    written = Written(tmp_path / "second.mcap")
    poses = written.messages["/relocalization_pose"]
    assert len(poses) >= 3
    assert {message.header.frame_id for message in poses} == {"map"}
    truth = {frame.stamp_ns: T for frame in two_passes()[0] if (T := frame.T_odom_base) is not None}
    for stamp_ns, message in zip(written.stamps_ns("/relocalization_pose"), poses, strict=True):
        at = message.pose.pose.position
        assert np.linalg.norm(np.array([at.x, at.y, at.z]) - truth[stamp_ns][:3, 3]) < 0.05
    with MapStore.open(tmp_path / "second.progeo", spec=encoder().spec, read_only=True) as store:
        assert len(store.sessions()) == 2


def test_a_read_only_map_is_asked_only(command, first_pass, tmp_path):
    assert command(first_pass, "--out", tmp_path / "first.mcap", *WITH_DEPTH)[0] == 0
    known = tmp_path / "first.progeo"
    arguments = ("--map", known, "--set", "map.read_only=true", *WITH_DEPTH)
    assert command(first_pass, "--out", tmp_path / "again.mcap", *arguments)[0] == 0
    assert not (tmp_path / "again.progeo").exists()
    written = Written(tmp_path / "again.mcap")
    assert len(written.messages["/relocalization_pose"]) == 6
    assert {message.query_id for message in written.messages["/loop_closures"]} == {-1}


def test_a_parameter_file_of_the_node_is_understood(command, first_pass, tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text("/**:\n  ros__parameters:\n    use_sim_time: true\n    map: {session: tuesday}\n")
    assert command(first_pass, "--out", tmp_path / "out.mcap", "--params", params, *WITH_DEPTH)[0] == 0
    names = {message.query_session for message in Written(tmp_path / "out.mcap").messages["/loop_candidates"]}
    assert names == {"tuesday"}


def test_the_recorder_writes_its_files_beside(command, tmp_path, caplog):
    bag = write_street(tmp_path, "mcap")
    arguments = (*WITH_DEPTH, "--set", "adapters=[recorder, cuvslam, rtabmap_links]")
    code, text, _ = command(bag, "--out", tmp_path / "out.mcap", *arguments)
    assert code == 0
    assert (tmp_path / "out.graph" / "graph.g2o").read_text().count("VERTEX_SE3:QUAT") == 12
    assert "out.graph" in text
    assert "rtabmap_links is left out" in caplog.text


def test_without_odometry_the_summary_says_what_that_means(command, tmp_path):
    bag = write_street(tmp_path, "mcap", odometry=False)
    code, text, _ = command(bag, "--out", tmp_path / "out.mcap", *WITH_DEPTH)
    assert code == 0
    assert "no odometry topic" in text
    assert not any(message.has_pose for message in Written(tmp_path / "out.mcap").messages["/keyframes"])


def test_a_broken_image_is_left_out_and_said(command, tmp_path):
    bag = write_street(tmp_path, "mcap", cut_image=2)
    code, text, _ = command(bag, "--out", tmp_path / "out.mcap", *WITH_DEPTH)
    assert code == 0
    assert "in 11 keyframes of 11 images" in text
    assert "cannot be deserialised" in text or "cannot be used" in text
