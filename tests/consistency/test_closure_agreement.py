"""Closures that vote on each other, and PCM, over drives whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from progeo_edge.config import Config, load_config
from progeo_edge.consistency import Agreed, ClosureAgreement, Drives
from progeo_edge.geometry import invert
from progeo_edge.map_store import MapStore
from progeo_edge.types import Candidate, Keyframe, LoopClosure, PoseKind, Status, Transform
from tests.consistency.drives import at, verification
from tests.small_world import SPEC, at_angle

PERIOD_M = 4.0
NUM_KNOWN = 20


class Robot:
    """Drives 20 m, and then the same 20 m again: in the same session, or in one of its own with another odometry."""

    def __init__(self, *overrides: str, sessions: int = 1, odometry: bool = True) -> None:
        self.config: Config = load_config(overrides=overrides)
        self.store = MapStore.create(None, SPEC, descriptor_dtype="float32")
        self.odometry = odometry
        session = self.store.begin_session("known", camera=None, config_yaml="")
        for i in range(NUM_KNOWN):
            self._keep(self._keyframe(i, session, at(float(i))), ())
        self.session = session if sessions == 1 else self.store.begin_session("new", camera=None, config_yaml="")
        self.T_odom_world = at(0) if sessions == 1 else at(-300, 50, 77)
        self._open()

    def _open(self) -> None:
        self.drives = Drives(self.config.odometry, self.store.infos())
        self.agreement = ClosureAgreement(self.store, self.config, self.drives, current_session=self.session)

    def sees(self, x: float, *claims: Candidate) -> Agreed:
        """A keyframe at x on the second way, with its accepted candidates."""
        keyframe = self._keyframe(self.store.next_keyframe_id(), self.session, self.T_odom_world @ at(x, 0.3))
        agreed = self.agreement.judge(keyframe, claims)
        accepted = [c for c in agreed.candidates if c.status is Status.ACCEPTED]
        closures = [LoopClosure(keyframe.id, c.reference_id, 0.9, verification=c.verification) for c in accepted]
        self._keep(keyframe, (*agreed.released, *closures))
        self.drives.of(self.session).add(keyframe.id, keyframe.T_odom_base)
        self.agreement.remember(keyframe, agreed)
        return agreed

    def _keyframe(self, id: int, session: int, pose: Transform) -> Keyframe:
        return Keyframe(id, session, id * 10**9, at_angle(0), T_odom_base=pose if self.odometry else None)

    def _keep(self, keyframe: Keyframe, closures: Sequence[LoopClosure]) -> None:
        self.store.add_keyframe(keyframe, status=Status.ACCEPTED, closures=closures)

    def resume(self) -> None:
        """As another process would go on."""
        self._open()


def claim(x: float, reference: int, off_m: float = 0.0, kind: PoseKind = PoseKind.METRIC) -> Candidate:
    """What the geometry says of a query at x: right, or off by a corridor's period."""
    T = invert(at(float(reference))) @ at(x - off_m, 0.3)
    return Candidate(reference, 0.9, Status.ACCEPTED, verification=verification(T, kind))


def right(x: float, kind: PoseKind = PoseKind.METRIC) -> Candidate:
    return claim(x, round(x), kind=kind)


def aliased(x: float, periods: int = 2) -> Candidate:
    """The same picture, some periods back."""
    return claim(x, round(x - periods * PERIOD_M), periods * PERIOD_M)


def statuses(agreed: Agreed) -> list[Status]:
    return [c.status for c in agreed.candidates]


@pytest.fixture(params=[1, 2], ids=["one session", "two sessions"])
def robot(request) -> Robot:
    return Robot(sessions=request.param)


def test_closures_that_agree_pass(robot):
    for x in range(10, 18):
        assert statuses(robot.sees(x, right(x))) == [Status.ACCEPTED]


def test_one_that_contradicts_its_neighbours_is_withheld_and_names_them(robot):
    for x in (10, 11, 12):
        robot.sees(x, right(x))
    agreed = robot.sees(13, aliased(13))
    assert statuses(agreed) == [Status.CONTRADICTED]
    assert agreed.candidates[0].contradicts == (NUM_KNOWN, NUM_KNOWN + 1, NUM_KNOWN + 2)
    assert statuses(robot.sees(14, right(14))) == [Status.ACCEPTED]
    assert len(robot.store.closures()) == 4


def test_the_nearest_along_the_way_are_asked():
    robot = Robot("consistency.neighbours=2")
    for x in range(10, 16):
        robot.sees(x, right(x))
    agreed = robot.sees(16, claim(16, 16, off_m=3.0))
    assert statuses(agreed) == [Status.CONTRADICTED]
    assert agreed.candidates[0].contradicts == (NUM_KNOWN + 4, NUM_KNOWN + 5)


def test_a_first_wrong_closure_is_outvoted_and_named_as_doubtful(robot):
    assert statuses(robot.sees(12, aliased(12))) == [Status.ACCEPTED]
    first = NUM_KNOWN
    assert statuses(robot.sees(13, right(13))) == [Status.CONTRADICTED]
    assert statuses(robot.sees(14, right(14))) == [Status.CONTRADICTED]
    agreed = robot.sees(15, right(15))
    assert statuses(agreed) == [Status.ACCEPTED]
    assert agreed.doubtful == ((first, 4),)
    later = robot.sees(16, right(16))
    assert statuses(later) == [Status.ACCEPTED]
    assert later.doubtful == ()
    assert later.candidates[0].contradicts == ()


def test_a_run_of_aliases_does_not_outvote_what_was_right_for_long(robot):
    for x in np.arange(2.0, 8.0, 0.5):
        robot.sees(x, right(x))
    for x in np.arange(12.0, 19.0, 0.25):
        assert statuses(robot.sees(x, aliased(x))) == [Status.CONTRADICTED]


def test_two_closures_of_one_keyframe_are_compared_too(robot):
    robot.sees(12, right(12))
    assert statuses(robot.sees(13, right(13), aliased(13))) == [Status.ACCEPTED, Status.CONTRADICTED]


def test_without_metres_rotation_and_bearings_are_compared(robot):
    for x in (10.0, 11.0, 12.0):
        robot.sees(x, right(x))
    ahead = claim(13.0, 10, kind=PoseKind.UP_TO_SCALE)
    behind = claim(13.0, 10, off_m=6.0, kind=PoseKind.UP_TO_SCALE)
    turned = Candidate(13, 0.9, Status.ACCEPTED, verification=verification(at(0, 0, 40), PoseKind.ROTATION_ONLY))
    assert statuses(robot.sees(13, ahead)) == [Status.ACCEPTED]
    assert statuses(robot.sees(13.2, behind)) == [Status.CONTRADICTED]
    assert statuses(robot.sees(13.4, turned)) == [Status.CONTRADICTED]
    assert statuses(robot.sees(13.6, claim(13.6, 14, kind=PoseKind.ROTATION_ONLY))) == [Status.ACCEPTED]


def test_bearings_alone_contradict_a_wrong_bearing(robot):
    for x in (10.0, 11.0, 12.0):
        assert statuses(robot.sees(x, claim(x, round(x) - 3, kind=PoseKind.UP_TO_SCALE))) == [Status.ACCEPTED]
    wrong = Candidate(10, 0.9, Status.ACCEPTED, verification=verification(at(-1), PoseKind.UP_TO_SCALE))
    assert statuses(robot.sees(16.0, wrong)) == [Status.CONTRADICTED]


def test_a_resumed_session_remembers_its_closures(robot):
    for x in (10, 11):
        robot.sees(x, right(x))
    robot.resume()
    assert statuses(robot.sees(12, aliased(12))) == [Status.CONTRADICTED]


def test_what_cannot_be_compared_passes():
    off, blind = Robot("consistency.enabled=false"), Robot(odometry=False)
    for robot in (off, blind):
        for x in (10, 11):
            robot.sees(x, right(x))
        assert statuses(robot.sees(12, aliased(12))) == [Status.ACCEPTED]
    poseless = Candidate(3, 0.9, Status.ACCEPTED, verification=None)
    assert statuses(Robot().sees(10, poseless)) == [Status.ACCEPTED]


# -- pairwise consistency as an option -----------------------------------------------------------------------------


@pytest.mark.parametrize("sessions", [1, 2])
def test_pcm_withholds_until_others_agree_and_releases_together(sessions):
    robot = Robot("consistency.pcm=true", "consistency.pcm_required=3", sessions=sessions)
    assert statuses(robot.sees(10, right(10))) == [Status.UNCONFIRMED]
    assert statuses(robot.sees(11, right(11))) == [Status.UNCONFIRMED]
    assert robot.store.closures() == []
    agreed = robot.sees(12, right(12))
    assert statuses(agreed) == [Status.ACCEPTED]
    assert [(c.query_id, c.reference_id) for c in agreed.released] == [(NUM_KNOWN, 10), (NUM_KNOWN + 1, 11)]
    assert len(robot.store.closures()) == 3
    assert robot.sees(13, right(13)).released == ()


def test_pcm_never_publishes_a_lone_wrong_closure():
    robot = Robot("consistency.pcm=true")
    assert statuses(robot.sees(10, aliased(10))) == [Status.UNCONFIRMED]
    assert statuses(robot.sees(11, right(11))) == [Status.UNCONFIRMED]
    agreed = robot.sees(12, right(12))
    assert [(c.query_id, c.reference_id) for c in agreed.released] == [(NUM_KNOWN + 1, 11)]


def test_pcm_takes_the_largest_set_that_agrees():
    robot = Robot("consistency.pcm=true", "consistency.pcm_required=3", "consistency.enabled=false")
    robot.sees(12, aliased(12))
    robot.sees(13, right(13))
    robot.sees(13.5, aliased(13.5))
    robot.sees(14, right(14))
    agreed = robot.sees(15, right(15))
    assert [c.reference_id for c in agreed.released] == [13, 14]
