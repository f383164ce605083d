"""Messages in, outcomes out: the newest first, everything else counted, and no image ends it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

from progeo_edge.errors import InputError, MapError
from progeo_edge.sources.images import FrameError
from progeo_ros.config import NodeConfig
from progeo_ros.conversions.standard import image_message
from progeo_ros.events import Outcome
from progeo_ros.frame_assembler import FrameAssembler
from progeo_ros.message_types import make_header
from progeo_ros.pipeline import Pipeline
from progeo_ros.place_recogniser import PlaceRecogniser
from progeo_ros.relocalization import Answer
from progeo_ros.rosbags_types import RosbagsTypes
from tests.ros_bridge.messages import odometry
from tests.small_world import NUM_POSES, camera, encoder, settings, two_passes

TYPES = RosbagsTypes()
INPUT = {"odometry": "none", "max_rate_hz": 1000.0}


@pytest.fixture(scope="module")
def frames():
    return two_passes()[0]


class Bench:
    """A pipeline whose worker can be held, and what came of it."""

    def __init__(self, path, **inputs: object) -> None:
        values = {"map": {"path": str(path)}, "input": {**INPUT, **inputs}, "camera": {"wait_s": 0.0}}
        config = NodeConfig.model_validate(values)
        self.recogniser = PlaceRecogniser.open(config, settings("keyframe.min_interval_s=0"), encoder=encoder())
        self.assembler = FrameAssembler(config, camera())
        self.outcomes: list[Outcome] = []
        self.errors: list[Exception] = []
        self.go = threading.Event()
        self.go.set()
        self.pipeline = Pipeline(self.assembler, self.recogniser, self._emit, self.errors.append)
        self.pipeline.start()

    def _emit(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        assert self.go.wait(10)

    def send(self, frame) -> None:
        message = image_message(TYPES, frame.image, frame.stamp_ns, "base_link")
        self.pipeline.take(self.assembler.on_image, message, time.monotonic_ns())

    def send_with_pose(self, frame) -> None:
        header = make_header(TYPES, frame.stamp_ns, "base_link")
        height, width = frame.depth_m.shape
        depth = TYPES.make(
            "sensor_msgs/msg/Image",
            header=header,
            height=height,
            width=width,
            encoding="32FC1",
            step=4 * width,
            data=frame.depth_m.astype(np.float32).tobytes(),
        )
        self.pipeline.take(self.assembler.on_odometry, odometry(frame.stamp_ns, frame.T_odom_base))
        self.pipeline.take(self.assembler.on_depth, depth)
        self.send(frame)

    def wait(self, count: int) -> None:
        deadline = time.monotonic() + 10
        while len(self.outcomes) + len(self.errors) < count:
            assert time.monotonic() < deadline, f"{len(self.outcomes)} outcomes, {self.errors}"
            time.sleep(0.005)

    def close(self) -> None:
        self.go.set()
        assert self.pipeline.stop()
        self.recogniser.close()


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path / "map.progeo")
    yield bench
    bench.close()


def test_images_come_out_as_outcomes_with_what_ros_says_of_them(bench, frames):
    bench.send(frames[0])
    bench.wait(1)
    outcome = bench.outcomes[0]
    assert (outcome.frame.stamp_ns, outcome.camera_frame) == (frames[0].stamp_ns, "base_link")
    assert 0 < outcome.latency_ms < 10_000
    assert bench.errors == []


def test_while_the_worker_is_busy_only_the_newest_waits(bench, frames):
    bench.go.clear()
    bench.send(frames[0])
    bench.wait(1)
    for frame in frames[1:6]:
        bench.send(frame)
    assert bench.pipeline.drops == 4
    assert bench.pipeline.queue_age_s > 0
    bench.go.set()
    bench.wait(2)
    assert [outcome.frame.stamp_ns for outcome in bench.outcomes] == [frames[0].stamp_ns, frames[5].stamp_ns]
    assert bench.pipeline.stop()
    assert bench.pipeline.drops == 4, "the count outlives the worker"


def test_dropped_images_are_never_decoded(bench, frames, monkeypatch):
    decoded: list[int] = []
    decode = bench.assembler.decode

    def noting(pending):
        decoded.append(pending.stamp_ns)
        return decode(pending)

    monkeypatch.setattr(bench.assembler, "decode", noting)
    bench.go.clear()
    bench.send(frames[0])
    bench.wait(1)
    for frame in frames[1:4]:
        bench.send(frame)
    bench.go.set()
    bench.wait(2)
    assert decoded == [frames[0].stamp_ns, frames[3].stamp_ns]


def test_images_that_a_slam_system_asked_for_all_come_through(tmp_path, frames):
    bench = Bench(tmp_path / "map.progeo", external_keyframes=True)
    for frame in frames[:NUM_POSES]:
        header = make_header(TYPES, frame.stamp_ns, "")
        bench.pipeline.take(bench.assembler.on_keyframe_trigger, header)
    for frame in frames[:NUM_POSES]:
        bench.send(frame)
    bench.wait(NUM_POSES)
    assert [outcome.frame.stamp_ns for outcome in bench.outcomes] == [frame.stamp_ns for frame in frames[:NUM_POSES]]
    assert all(outcome.update.keyframe is not None for outcome in bench.outcomes)
    assert bench.pipeline.drops == 0
    bench.close()


def test_a_broken_image_and_a_failing_map_do_not_end_it(bench, frames, monkeypatch):
    bench.send(frames[0])
    bench.wait(1)
    broken = image_message(TYPES, frames[1].image, frames[1].stamp_ns, "base_link")
    broken.data = broken.data[:100]
    bench.pipeline.take(bench.assembler.on_image, broken, time.monotonic_ns())
    bench.wait(2)

    def full(*args: object, **kwargs: object) -> None:
        raise MapError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(bench.recogniser, "process", full)
        bench.send(frames[2])
        bench.wait(3)
    bench.send(frames[3])
    bench.wait(4)
    assert [type(error) for error in bench.errors] == [FrameError, MapError]
    assert len(bench.outcomes) == 2


def test_an_image_of_another_aspect_is_an_error_and_a_smaller_one_is_not(bench, frames):
    bench.send(frames[0])
    bench.wait(1)
    bench.send(replace(frames[1], image=cv2.resize(frames[1].image, (160, 120))))
    bench.wait(2)
    bench.send(replace(frames[2], image=np.ascontiguousarray(frames[2].image[:100])))
    bench.wait(3)
    assert len(bench.outcomes) == 2
    assert isinstance(bench.errors[0], FrameError | InputError)


def test_a_pause_drops_and_a_stop_takes_no_more(bench, frames):
    bench.pipeline.is_paused = True
    bench.send(frames[0])
    assert bench.pipeline.relocalize(1.0).problem == "the node is paused; end the pause first"
    bench.pipeline.is_paused = False
    bench.send(frames[1])
    bench.wait(1)
    assert bench.outcomes[0].frame.stamp_ns == frames[1].stamp_ns
    assert bench.pipeline.stop()
    bench.send(frames[2])
    assert not bench.pipeline.is_running
    assert bench.pipeline.relocalize(1.0).problem == "the node takes no images; activate it"
    bench.pipeline.start()
    bench.send(frames[3])
    bench.wait(2)
    assert bench.outcomes[1].session == bench.outcomes[0].session


def test_relocalize_waits_for_the_image_that_knows(tmp_path, frames):
    """While mapping: the place was seen long enough ago, and no image before says anything."""
    bench = Bench(tmp_path / "map.progeo", odometry="topic", depth=True)
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(bench.pipeline.relocalize(30.0)))
    asking.start()
    for i in range(NUM_POSES):
        bench.send_with_pose(frames[i])
        bench.wait(i + 1)
    assert answers == []
    bench.send_with_pose(frames[NUM_POSES])
    asking.join(10)
    assert bench.errors == []
    answer = answers[0]
    assert answer.problem == ""
    assert answer.found is not None
    found, match = answer.found.relocalisation, answer.found.relocalisation.match
    assert match is not None
    assert (found.stamp_ns, found.query_stamp_ns, match.query_id) == (frames[NUM_POSES].stamp_ns,) * 2 + (-1,)
    reference = answer.found.outcome.reference(match.reference_id).T_odom_base
    assert reference is not None
    assert match.verification is not None
    assert match.verification.T_reference_query is not None
    assert found.T_odom_base is not None
    np.testing.assert_allclose(found.T_odom_base, reference @ match.verification.T_reference_query)
    assert answer.found.outcome.session_of(match.reference_id) == "run"
    assert bench.recogniser.num_keyframes == NUM_POSES + 1, "the question stored nothing of its own"
    bench.close()


def test_a_stop_answers_those_who_wait_for_a_pose(bench):
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(bench.pipeline.relocalize(30.0)))
    asking.start()
    time.sleep(0.1)
    assert bench.pipeline.stop()
    asking.join(5)
    assert [answer.problem for answer in answers] == ["the node takes no images; activate it"]
