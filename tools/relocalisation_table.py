"""Relocalisation from power-on in rendered streets: python -m tools.relocalisation_table.

Every world is driven once by day; its map is asked by robots that wake up at random places of another drive in other
light, and by robots in the world after it, to whom every match is wrong. Prints Markdown: outcomes, errors and the
number of views needed, adversarial inputs among them; and a reliability table of the probability after every view.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

import numpy as np

from progeo_edge.config import Config
from progeo_edge.detector import LoopDetector
from progeo_edge.geometry import invert, rotation_angle
from progeo_edge.relocalisation import Relocaliser
from progeo_edge.types import Frame, Relocalisation, Status, Transform, Update
from tools.relocalisation_trials import LIGHTS, Trial, TrialView, corridor_trials, record_trials

BINS = (0.0, 0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
WRONG_M = 2.0
"""A pose in metres further off than this is wrong; without metres the reference must show the place."""


@dataclass(frozen=True, eq=False)
class Row:
    """What became of one robot.

    Attributes:
        trial: The robot.
        answer: The last one.
    """

    trial: Trial
    answer: Relocalisation

    @property
    def is_right(self) -> bool:
        """Whether the match is where the robot was."""
        return self.trial.is_own and is_right(self.trial, self.answer)


class Remembered:
    """A detector that was asked already: gives what it said to each frame, under other settings of relocalisation."""

    def __init__(self, trial: Trial, **settings: float) -> None:
        config = trial.detector.config
        self.config: Config = config.model_copy(
            update={"relocalisation": config.relocalisation.model_copy(update=settings)}
        )
        self.map_store, self.encoder = trial.detector.map_store, trial.detector.encoder
        self._updates = {id(view.frame.image): view.update for view in trial.views}

    def relocalize(self, frame: Frame) -> Update:
        """What was said to this picture."""
        return self._updates[id(frame.image)]


def main() -> None:
    """Wake up everywhere and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=110, help="seed of the first world")
    parser.add_argument("--worlds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=10, help="robots per world")
    parser.add_argument("--views", type=int, default=8, help="frames per robot")
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.worlds)
    trials = list(record_trials(seeds, num_starts=arguments.starts, num_views=arguments.views))
    reliability: list[tuple[float, bool]] = []
    _print_head()
    for has_camera, words in ((True, "intrinsics and depth"), (False, "neither")):
        for odometry in (True, False):
            for is_own, where in ((True, "own world"), (False, "another world")):
                chosen = [trial for trial in trials if (trial.has_camera, trial.is_own) == (has_camera, is_own)]
                rows = [wake_up(trial, odometry=odometry) for trial in chosen]
                _print_row(f"{where}, {words}{', odometry' if odometry else ''}", rows)
                for trial in chosen:
                    reliability += after_every_view(trial, odometry=odometry)
    for light in LIGHTS:
        chosen = [trial for trial in trials if trial.is_own and trial.has_camera and trial.light == light]
        if chosen:
            _print_row(f"own world, {light}", [wake_up(trial, odometry=True) for trial in chosen])
    own = [trial for trial in trials if trial.is_own and trial.has_camera]
    _print_row("own world, camera frozen", [wake_up(_frozen(trial), odometry=True) for trial in own])
    _print_row("own world, lens cap on", [wake_up(_covered(trial), odometry=True) for trial in own[::10]])
    corridor = list(corridor_trials(100, arguments.starts, arguments.views))
    for has_camera, words in ((True, "intrinsics and depth"), (False, "neither")):
        chosen = [trial for trial in corridor if trial.has_camera == has_camera]
        _print_row(f"repetitive corridor, {words}", [wake_up(trial, odometry=True) for trial in chosen])
    _print_reliability(reliability)


def wake_up(trial: Trial, *, odometry: bool) -> Row:
    """Add views until there is an answer, or no view left."""
    relocaliser = Relocaliser(cast(LoopDetector, Remembered(trial)))
    for view in trial.views:
        relocaliser.add(_without_odometry(view.frame, odometry))
        if relocaliser.is_finished:
            break
    return Row(trial, relocaliser.answer)


def after_every_view(trial: Trial, *, odometry: bool) -> Iterator[tuple[float, bool]]:
    """Probability of the best place after each view, however small, and whether it is right."""
    relocaliser = Relocaliser(cast(LoopDetector, Remembered(trial, min_probability=1e-9)))
    for view in trial.views:
        answer = relocaliser.add(_without_odometry(view.frame, odometry))
        if answer.match is not None:
            yield answer.probability, trial.is_own and is_right(trial, answer)


def is_right(trial: Trial, answer: Relocalisation) -> bool:
    """By the pose when it is in metres, else by the place that the verified view shows."""
    error = pose_error(trial, answer)
    if error is not None:
        return error[0] <= WRONG_M
    view = _view_at(trial, answer.query_stamp_ns)
    return answer.match is not None and view is not None and trial.is_at(view, answer.match.reference_id)


def pose_error(trial: Trial, answer: Relocalisation) -> tuple[float, float] | None:
    """Metres and degrees, against the truth relative to the reference; None without a pose in metres."""
    view = _view_at(trial, answer.stamp_ns)
    if answer.match is None or answer.T_odom_base is None or view is None:
        return None
    T_odom_reference = trial.detector.map_store.keyframe(answer.match.reference_id).T_odom_base
    assert T_odom_reference is not None
    T_found = invert(T_odom_reference) @ answer.T_odom_base
    T_true = invert(trial.reference_poses[answer.match.reference_id]) @ view.T_world_base
    T_error: Transform = invert(T_true) @ T_found
    return float(np.linalg.norm(T_error[:3, 3])), float(np.degrees(rotation_angle(T_error[:3, :3])))


def _view_at(trial: Trial, stamp_ns: int | None) -> TrialView | None:
    return next((view for view in trial.views if view.frame.stamp_ns == stamp_ns), None)


def _without_odometry(frame: Frame, odometry: bool) -> Frame:
    """Without odometry a frame is a new view after `keyframe.min_interval_s`: here every third one."""
    if odometry:
        return frame
    return replace(frame, T_odom_base=None)


def _frozen(trial: Trial) -> Trial:
    """The robot drives on, and its camera gives the first picture over and over."""
    first = trial.views[0]
    views = (replace(view, frame=replace(view.frame, image=first.frame.image)) for view in trial.views)
    return replace(trial, views=tuple(replace(view, update=first.update) for view in views))


def _covered(trial: Trial) -> Trial:
    """A lens cap, with the noise of the sensor."""
    rng = np.random.default_rng(0)
    views = []
    for view in trial.views:
        dark = rng.integers(0, 6, view.frame.image.shape, dtype=np.uint8)
        frame = replace(view.frame, image=dark, depth_m=None)
        views.append(replace(view, frame=frame, update=trial.detector.relocalize(frame)))
    return replace(trial, views=tuple(views))


def _print_head() -> None:
    print("| robots wake up in | robots | right | wrong | no match | views needed 1 / 2 / 3 / more | position error |")
    print("|---|---|---|---|---|---|---|")


def _print_row(title: str, rows: Sequence[Row]) -> None:
    matches = [row for row in rows if row.answer.match is not None]
    num_right = sum(row.is_right for row in matches)
    reasons = _counted(row.answer.status for row in rows if row.answer.match is None)
    needed = [row.answer.num_frames for row in matches]
    views = " / ".join(str(sum(n == k for n in needed)) for k in (1, 2, 3)) + f" / {sum(n > 3 for n in needed)}"
    errors = [pose_error(row.trial, row.answer) for row in matches if row.is_right]
    metres = [error[0] for error in errors if error is not None]
    error = f"{np.median(metres):.3f} m, at most {max(metres):.3f} m" if metres else "no pose"
    counts = f"{len(rows)} | {num_right} | {len(matches) - num_right}"
    print(f"| {title} | {counts} | {reasons} | {views} | {error} |", flush=True)


def _counted(statuses: Iterable[Status]) -> str:
    found = list(statuses)
    return ", ".join(f"{found.count(status)} {status.value}" for status in dict.fromkeys(found)) or "0"


def _print_reliability(answers: Sequence[tuple[float, bool]]) -> None:
    print("\n| stated probability | answers | mean stated | right |\n|---|---|---|---|")
    for low, high in pairwise(BINS):
        inside = [(p, right) for p, right in answers if low <= p < high]
        if inside:
            stated, share = (float(np.mean(values)) for values in zip(*inside, strict=True))
            print(f"| {low:g} to {high:g} | {len(inside)} | {stated:.3f} | {share:.3f} |")


if __name__ == "__main__":
    main()
