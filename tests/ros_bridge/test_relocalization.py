"""Those who ask where they are wait for an image that knows, not for the next one."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from progeo_edge.map_rows import KeyframeInfo
from progeo_edge.types import Candidate, Frame, LoopClosure, PoseKind, Status, Update, Verification
from progeo_ros.events import Outcome
from progeo_ros.relocalization import MAX_WAITING, Answer, RelocalizationDesk

REFERENCE = KeyframeInfo(7, 0, 1, "", "cam0", np.eye(4), Status.NO_CANDIDATE)


def outcome(pose_kind: PoseKind | None) -> Outcome:
    """Of an image that was recognised with a pose of some kind; None: not recognised."""
    update = Update(None, status=Status.FEW_INLIERS)
    if pose_kind is not None:
        verification = Verification(Status.ACCEPTED, np.eye(4), np.eye(6), pose_kind, num_inliers=50)
        closure = LoopClosure(-1, 7, 0.9, verification=verification)
        update = Update(None, (Candidate(7, 0.9, Status.ACCEPTED),), (closure,), Status.ACCEPTED)
    frame = Frame(5, np.zeros((4, 4), np.uint8))
    return Outcome(frame, update, {7: REFERENCE}, "", {0: "run"}, "id", 0.0, "base_link", "odom", "cam", 1.0)


class Asking(threading.Thread):
    """Someone who waits."""

    def __init__(self, desk: RelocalizationDesk, timeout_s: float) -> None:
        super().__init__()
        self.desk, self.timeout_s = desk, timeout_s
        self.answer: Answer | None = None
        self.start()
        while not desk.is_asked:
            time.sleep(0.001)

    def run(self) -> None:
        self.answer = self.desk.ask(self.timeout_s)

    def get(self) -> Answer:
        self.join(5)
        assert self.answer is not None
        return self.answer


def test_the_answer_is_the_first_image_with_a_pose_in_metres():
    desk = RelocalizationDesk()
    assert not desk.is_asked
    asking = Asking(desk, 5.0)
    for kind in (None, PoseKind.UP_TO_SCALE, None):
        desk.offer(outcome(kind))
    assert asking.answer is None
    found = outcome(PoseKind.METRIC)
    desk.offer(found)
    answer = asking.get()
    assert (answer.problem, answer.outcome, answer.closure) == ("", found, found.update.closures[0])
    assert not desk.is_asked


@pytest.mark.parametrize(
    ("kinds", "sentence"),
    [
        ((), "no image was processed within 0.2 s"),
        ((None, None), "none of 2 images in 0.2 s was recognised; the last ended with FEW_INLIERS"),
        ((PoseKind.UP_TO_SCALE, None), "the place is known, but not the pose in metres"),
    ],
)
def test_without_an_answer_there_is_a_reason(kinds, sentence):
    desk = RelocalizationDesk()
    asking = Asking(desk, 0.2)
    for kind in kinds:
        desk.offer(outcome(kind))
    answer = asking.get()
    assert answer.problem.startswith(sentence)
    assert (answer.closure is not None) == (PoseKind.UP_TO_SCALE in kinds)


def test_an_earlier_image_is_no_answer():
    desk = RelocalizationDesk()
    first = Asking(desk, 0.2)
    desk.offer(outcome(PoseKind.METRIC))
    assert first.get().problem == ""
    assert desk.ask(0.05).problem.startswith("no image was processed")


def test_a_reference_without_pose_gives_no_pose_in_the_map():
    desk = RelocalizationDesk()
    asking = Asking(desk, 0.2)
    found = outcome(PoseKind.METRIC)
    desk.offer(replace(found, references={7: replace(REFERENCE, T_odom_base=None)}))
    assert asking.get().problem.startswith("the place is known")


def test_closing_tells_those_who_wait_and_those_who_ask_later():
    desk = RelocalizationDesk()
    asking = Asking(desk, 30.0)
    desk.close()
    assert asking.get().problem == "the node takes no images; activate it"
    assert desk.ask(30.0).problem == "the node takes no images; activate it"


def test_more_than_a_few_do_not_take_all_threads():
    desk = RelocalizationDesk()
    waiting = [Asking(desk, 30.0) for _ in range(MAX_WAITING)]
    time.sleep(0.05)
    assert "others wait for a pose already" in desk.ask(30.0).problem
    desk.offer(outcome(PoseKind.METRIC))
    assert {asking.get().problem for asking in waiting} == {""}
