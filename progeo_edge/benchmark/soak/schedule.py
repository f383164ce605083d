"""When the frames of a simulated camera arrive: at a rate, with pauses, drops and bursts, the same for one seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Disturbances:
    """What happens to a camera's frames on a robot.

    Attributes:
        drop_probability: That a frame never arrives.
        pauses_per_hour: How often the stream stops; nothing is seen meanwhile.
        pause_s: Mean length of a pause; each is drawn between 0 and twice this.
        bursts_per_hour: How often frames are held up on their way, and arrive together.
        burst_frames: Frames that arrive together.
    """

    drop_probability: float = 0.01
    pauses_per_hour: float = 20.0
    pause_s: float = 5.0
    bursts_per_hour: float = 60.0
    burst_frames: int = 5


@dataclass(frozen=True, slots=True)
class Arrival:
    """A frame of the camera.

    Attributes:
        number: Position of the frame on the camera's clock: its stamp is number periods.
        time_s: When it arrives; never before the one before.
    """

    number: int
    time_s: float


@dataclass
class Losses:
    """Frames that never arrived.

    Attributes:
        dropped: One by one.
        paused: While the stream stood still.
    """

    dropped: int = 0
    paused: int = 0


def arrivals(
    num_frames: int, rate_hz: float, disturbances: Disturbances, seed: int, losses: Losses
) -> Iterator[Arrival]:
    """The frames that arrive, in order.

    Args:
        num_frames: Of the camera, those that get lost included.
        rate_hz: Of the camera.
        disturbances: What happens to them.
        seed: Of the draws.
        losses: Counts what does not arrive.
    """
    rng = np.random.default_rng(seed)
    pause = disturbances.pauses_per_hour / 3600.0 / rate_hz
    burst = disturbances.bursts_per_hour / 3600.0 / rate_hz
    resumes = held_until = -1
    for number in range(num_frames):
        dropped, paused, held = rng.random(3)
        if paused < pause and number >= resumes:
            resumes = number + round(rng.uniform(0.0, 2.0 * disturbances.pause_s) * rate_hz)
        if held < burst and number > held_until:
            held_until = number + disturbances.burst_frames - 1
        if number < resumes:
            losses.paused += 1
        elif dropped < disturbances.drop_probability:
            losses.dropped += 1
        else:
            yield Arrival(number, max(number, held_until) / rate_hz)
