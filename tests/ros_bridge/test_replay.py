"""progeo-replay as a user calls it: a bag of a rendered street in, the topics of the node out."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability

from progeo_edge.config import config_from_dict, load_config
from progeo_edge.detector import LoopDetector
from progeo_edge.map_store import MapStore
from progeo_edge.sources.bag import open_bag
from progeo_edge.types import Status
from progeo_ros.conversions.outgoing import STATUS_CODES
from progeo_ros.message_types import stamp_ns_of
from progeo_ros.replay import command as replay_command
from tests.ros_bridge.street_bag import DEPTH, IMAGE, INFO, ODOM, write_street
from tests.small_world import LIGHT, camera, encoder, two_passes
from tests.sources.bag_writer import Messages
from tests.tiny_encoder import write_tiny_bundle

ROOT = Path(__file__).parents[2]
SETTINGS = [argument for item in (*LIGHT, "budget.max_verifications=1") for argument in ("--set", item)]
WITH_DEPTH = [*SETTINGS, "--topic", f"image={IMAGE}", "--topic", f"depth={DEPTH}"]
STAMPS_NS = [frame.stamp_ns for frame in two_passes()[0]]
DESCRIPTOR = 512


@pytest.fixture
def command(capsys, monkeypatch):
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["progeo-replay", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as exit:
            replay_command.main()
        captured = capsys.readouterr()
        return int(exit.value.code or 0), captured.out, captured.err

    return run


class Written:
    """What a replay wrote, read back."""

    def __init__(self, path):
        self.messages: dict[str, list[Any]] = defaultdict(list)
        self.changed: list[str] = []
        with AnyReader([path]) as reader:
            extras: list[tuple[str, Any]] = [(connection.topic, connection.ext) for connection in reader.connections]
            self.qos = {topic: extra.offered_qos_profiles[0] for topic, extra in extras}
            for connection, _, data in reader.messages():
                message: Any = reader.deserialize(data, connection.msgtype)
                self.messages[connection.topic].append(message)
                if bytes(reader.typestore.serialize_cdr(message, connection.msgtype)) != bytes(data):
                    self.changed.append(connection.topic)

    def stamps_ns(self, topic):
        return [stamp_ns_of(message.header.stamp) for message in self.messages[topic]]


def replayed(bag_format, folder):
    """A replay of both passes with depth, called as a program."""
    bag = write_street(folder, bag_format)
    out = folder / "out.mcap"
    program = [sys.executable, "-c", "from progeo_ros.replay.command import main; main()"]
    done = subprocess.run(
        [*program, bag, "--out", out, "--with-inputs", *WITH_DEPTH],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": f"{ROOT}:{ROOT / 'ros_bridge' / 'progeo_ros'}"},
    )
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
    assert values["keyframes of this run"] == "12"
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


def test_a_known_map_is_recognised_and_not_changed(command, tmp_path):
    first = write_street(tmp_path, "mcap", passes=(0,))
    second = write_street(tmp_path, "ros1", passes=(1,))
    assert command(first, "--out", tmp_path / "first.mcap", *WITH_DEPTH)[0] == 0
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


def test_a_read_only_map_is_asked_only(command, tmp_path):
    bag = write_street(tmp_path, "mcap", passes=(0,))
    assert command(bag, "--out", tmp_path / "first.mcap", *WITH_DEPTH)[0] == 0
    known = tmp_path / "first.progeo"
    arguments = ("--map", known, "--set", "map.read_only=true", *WITH_DEPTH)
    assert command(bag, "--out", tmp_path / "again.mcap", *arguments)[0] == 0
    assert not (tmp_path / "again.progeo").exists()
    written = Written(tmp_path / "again.mcap")
    assert len(written.messages["/relocalization_pose"]) == 6
    assert {message.query_id for message in written.messages["/loop_closures"]} == {-1}


def test_a_parameter_file_of_the_node_is_understood(command, tmp_path):
    bag = write_street(tmp_path, "mcap")
    params = tmp_path / "params.yaml"
    params.write_text("/**:\n  ros__parameters:\n    use_sim_time: true\n    map: {session: tuesday}\n")
    assert command(bag, "--out", tmp_path / "out.mcap", "--params", params, *WITH_DEPTH)[0] == 0
    names = {message.query_session for message in Written(tmp_path / "out.mcap").messages["/loop_candidates"]}
    assert names == {"tuesday"}


def test_the_recorder_writes_its_files_beside(command, tmp_path):
    bag = write_street(tmp_path, "mcap")
    arguments = (*WITH_DEPTH, "--set", "adapters=[recorder, cuvslam, rtabmap_links]")
    code, text, errors = command(bag, "--out", tmp_path / "out.mcap", *arguments)
    assert code == 0
    assert (tmp_path / "out.graph" / "graph.g2o").read_text().count("VERTEX_SE3:QUAT") == 12
    assert "out.graph" in text
    assert "rtabmap_links is left out" in errors


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


# -- what cannot be replayed -------------------------------------------------------------------------------------------


def no_images(folder):
    messages = Messages("mcap")
    messages.add("/odom", 1, messages.odometry(1, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)))
    return messages.write(folder)


def black_images_without_stamp(folder):
    messages = Messages("mcap")
    for i in range(3):
        messages.add(IMAGE, 10**9 + i, messages.grey(0, 0))
    return messages.write(folder)


def truncated(folder):
    path = write_street(folder, "ros1", passes=(0,))
    path.write_bytes(path.read_bytes()[:200_000])
    return path


def missing(folder):
    return folder / "nowhere.bag"


def two_cameras(folder):
    return write_street(folder, "mcap", passes=(0,), second_camera=True)


def street(folder):
    return write_street(folder, "mcap", passes=(0,))


@pytest.mark.parametrize(
    ("bag", "arguments", "message"),
    [
        (missing, [], "nowhere.bag does not exist"),
        (no_images, [], "has no image topic; name one (--topic image=...)"),
        (two_cameras, [], "has several image topics; name one (--topic image=...). Topics: /camera/camera_info"),
        (truncated, [], "cannot be read"),
        (black_images_without_stamp, [], "the image has no stamp"),
        (street, ["--topic", "image=/front"], "topic /front of bag"),
        (street, ["--topic", "picture=/front"], "--topic 'picture=/front' is none"),
        (street, ["--set", "input.depth=true"], "give --topic depth=..."),
        (street, ["--set", "input.external_keyframes=true"], "has no topic /keyframe"),
        (street, ["--topic", f"odom={INFO}"], "expected nav_msgs/msg/Odometry"),
        (street, ["--set", "model.path=nowhere"], "nowhere"),
        (street, ["--map", "nowhere.progeo"], "nowhere.progeo"),
        (street, ["--params", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (street, ["--set", "serch.top_k=3"], "did you mean 'search.top_k'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(command, tmp_path, bag, arguments, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    path = bag(tmp_path / "in")
    by_type = bag in (two_cameras, no_images) or any("image=" in argument for argument in arguments)
    image = [] if by_type else ["--topic", f"image={IMAGE}"]
    code, text, errors = command(path, "--out", tmp_path / "out" / "out.mcap", *image, *arguments)
    assert (code, text) == (2, "")
    assert errors.splitlines()[-1].startswith("error: ")
    assert message in errors.splitlines()[-1]
    assert list((tmp_path / "out").iterdir()) == []


def test_a_map_of_another_model_is_refused(command, tmp_path):
    bag = write_street(tmp_path, "mcap", passes=(0,))
    bundle = write_tiny_bundle(tmp_path / "bundle")
    assert command(bag, "--out", tmp_path / "first.mcap", *WITH_DEPTH)[0] == 0
    arguments = ("--map", tmp_path / "first.progeo", "--set", f"model.path={bundle}", *WITH_DEPTH)
    code, _, errors = command(bag, "--out", tmp_path / "second.mcap", *arguments)
    assert code == 2
    assert "first.progeo" in errors and "model" in errors
    assert not (tmp_path / "second.mcap").exists()


def test_results_are_replaced_only_when_asked(command, tmp_path):
    bag = write_street(tmp_path, "mcap", passes=(0,))
    out = tmp_path / "out.mcap"
    assert command(bag, "--out", out, *WITH_DEPTH)[0] == 0
    before = out.stat().st_ino
    code, _, errors = command(bag, "--out", out, *WITH_DEPTH)
    assert code == 2 and "--force" in errors
    assert out.stat().st_ino == before
    assert command(bag, "--out", out, "--force", *WITH_DEPTH)[0] == 0
    assert out.stat().st_ino != before


def test_a_killed_replay_leaves_no_file_under_the_final_name(tmp_path):
    bag = write_street(tmp_path, "mcap")
    out = tmp_path / "out.mcap"
    program = [sys.executable, "-c", "from progeo_ros.replay.command import main; main()"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'ros_bridge' / 'progeo_ros'}"}
    process = subprocess.Popen([*program, bag, "--out", out, *WITH_DEPTH], env=environment)
    end = time.monotonic() + 60
    while not list(tmp_path.glob(".out.*/out/out.mcap")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists() and not out.with_suffix(".progeo").exists()


def test_an_interrupted_replay_cleans_up(command, tmp_path, monkeypatch):
    bag = write_street(tmp_path, "mcap", passes=(0,))
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(LoopDetector, "process", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert command(bag, "--out", tmp_path / "out" / "out.mcap", *WITH_DEPTH)[0] == 130
    assert list((tmp_path / "out").iterdir()) == []
