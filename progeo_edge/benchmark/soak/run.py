"""Drive a detector with the frames of a looped source, as a node on a robot would be, and record what happens."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from progeo_edge.benchmark.soak.course import NUM_SAMPLES, Course
from progeo_edge.benchmark.soak.newest_wins import NewestWins, Turn
from progeo_edge.benchmark.soak.schedule import Disturbances, Losses, arrivals
from progeo_edge.detector import LoopDetector
from progeo_edge.errors import InputError
from progeo_edge.types import Frame

MIN_FRAMES = 100


@dataclass(frozen=True)
class Plan:
    """How long, and how.

    Attributes:
        hours_equivalent: Of driving, on the robot's clock.
        rate_hz: Frames per second of the camera.
        speed_up: How many times as fast the robot's clock runs as its camera: a frame stands for so many periods. The
            queue sees the frames at `rate_hz` all the same.
        real_time: Wait for each frame, so that the machine rests between them as it would on the robot.
        seed: Of the disturbances.
        disturbances: What happens to the frames.
    """

    hours_equivalent: float
    rate_hz: float = 10.0
    speed_up: float = 1.0
    real_time: bool = False
    seed: int = 0
    disturbances: Disturbances = field(default_factory=Disturbances)

    @property
    def num_frames(self) -> int:
        """Of the camera."""
        return round(self.hours_equivalent * 3600.0 * self.rate_hz / self.speed_up)

    def hours(self, number: int) -> float:
        """Robot's clock at a frame of this number."""
        return number * self.speed_up / self.rate_hz / 3600.0


@dataclass(frozen=True)
class Soaked:
    """What happened.

    Attributes:
        plan: As asked for.
        course: What was recorded.
        losses: Frames that never arrived.
        num_arrived: Frames that did.
        num_replaced: Frames that a newer one replaced before their turn came.
        stopped_early: Whether somebody ended it.
    """

    plan: Plan
    course: Course
    losses: Losses
    num_arrived: int
    num_replaced: int
    stopped_early: bool


def soak(
    frames: Sequence[Frame],
    detector: LoopDetector,
    plan: Plan,
    *,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda _: None,
) -> Soaked:
    """Drive there and back along the frames until the hours are over.

    Args:
        frames: Kept in memory, so that reading them is no part of the figures. At the end the robot drives back, so
            that neither the picture nor the odometry jumps.
        detector: With a map of its own.
        plan: How long.
        stop: Asked before every frame; True ends the run with what there is.
        progress: Told the number of the frame on the camera's clock.

    Raises:
        InputError: too few frames for any figure.
        ProgeoError: the detector cannot go on.
    """
    if plan.num_frames < MIN_FRAMES or not frames:
        raise InputError(
            f"{plan.hours_equivalent:g} hours at {plan.rate_hz:g} Hz and speed-up {plan.speed_up:g} are "
            f"{plan.num_frames} frames; expected {MIN_FRAMES} at least: ask for more hours or less speed-up"
        )
    course, losses = Course(plan.num_frames), Losses()
    queue = NewestWins(real_time=plan.real_time)
    every = max(1, plan.num_frames // NUM_SAMPLES)
    sampled = -1
    stopped = False
    for turn in queue.turns(arrivals(plan.num_frames, plan.rate_hz, plan.disturbances, plan.seed, losses)):
        if stop():
            stopped = True
            break
        number = turn.arrival.number
        _work(frames, detector, plan, turn, course)
        if number // every > sampled:
            sampled = number // every
            gc.collect()
            course.sample_memory(plan.hours(number), len(detector.map_store), detector.map_store.path)
        progress(number)
    return Soaked(plan, course, losses, queue.num_arrived, queue.lost, stopped)


def there_and_back(number: int, num_frames: int) -> int:
    """Which of the frames is seen: 0 1 2 3 2 1 0 1 ..."""
    if num_frames == 1:
        return 0
    place = number % (2 * num_frames - 2)
    return min(place, 2 * num_frames - 2 - place)


def _work(frames: Sequence[Frame], detector: LoopDetector, plan: Plan, turn: Turn, course: Course) -> None:
    number = turn.arrival.number
    stamp_ns = round(plan.hours(number) * 3600e9)
    update = detector.process(replace(frames[there_and_back(number, len(frames))], stamp_ns=stamp_ns))
    row = course.count
    course.hours[row] = plan.hours(number)
    course.total_ms[row] = update.timings_ms["total"]
    course.waited_ms[row] = 1e3 * turn.waited_s
    course.depth[row] = turn.depth
    course.is_keyframe[row] = update.keyframe is not None
    course.has_closure[row] = bool(update.closures)
    course.statuses[update.status.value] += 1
    course.num_closures += len(update.closures) + len(update.released)
    course.count += 1
