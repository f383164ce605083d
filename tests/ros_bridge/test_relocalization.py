"""Those who ask where they are wait for an image that knows, not for the next one."""

from __future__ import annotations

import threading
import time

import pytest

from progeo_edge.types import PoseKind
from progeo_ros.relocalization import MAX_WAITING, Answer, RelocalizationDesk
from tests.ros_bridge.messages import whereabouts

METRIC, DIRECTION = PoseKind.METRIC, PoseKind.UP_TO_SCALE


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


def test_the_answer_is_the_first_that_is_certain_and_in_metres():
    desk = RelocalizationDesk()
    assert not desk.is_asked
    asking = Asking(desk, 5.0)
    for kind in (None, DIRECTION, None):
        desk.offer(whereabouts(kind))
    assert asking.answer is None
    found = whereabouts(METRIC)
    desk.offer(found)
    answer = asking.get()
    assert (answer.problem, answer.found) == ("", found)
    assert not desk.is_asked


@pytest.mark.parametrize(
    ("kinds", "sentence"),
    [
        ((), "no image was processed within 0.2 s"),
        ((None, None), "no match after 2 images in 0.2 s: AMBIGUOUS, the best place has probability 0.40"),
        ((DIRECTION, None), "the place is known, but not the pose in metres"),
    ],
)
def test_without_an_answer_there_is_a_reason(kinds, sentence):
    desk = RelocalizationDesk()
    asking = Asking(desk, 0.2)
    for kind in kinds:
        desk.offer(whereabouts(kind))
    answer = asking.get()
    assert answer.problem.startswith(sentence)
    assert (answer.found is None) == (not kinds)
    if answer.found is not None:
        assert (answer.found.relocalisation.match is not None) == (DIRECTION in kinds)


def test_an_earlier_image_is_no_answer():
    desk = RelocalizationDesk()
    first = Asking(desk, 0.2)
    desk.offer(whereabouts(METRIC))
    assert first.get().problem == ""
    assert desk.ask(0.05).problem.startswith("no image was processed")


def test_images_vote_anew_with_every_question():
    desk, news = RelocalizationDesk(), []
    first = Asking(desk, 0.2)
    news.append(desk.is_new)
    desk.offer(whereabouts(None))
    second = Asking(desk, 30.0)
    first.get()
    news.append(desk.is_new)
    desk.offer(whereabouts(METRIC))
    assert second.get().problem == ""
    third = Asking(desk, 0.2)
    news.append(desk.is_new)
    third.get()
    assert news == [True, False, True], "who comes later takes part in the question that is asked already"


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
    desk.offer(whereabouts(METRIC))
    assert {asking.get().problem for asking in waiting} == {""}
