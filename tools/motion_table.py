"""What motion is worth, as a Markdown table: python -m tools.motion_table DEV [--worlds 30] [--cache FOLDER].

Every keyframe asks once; its best candidate by the score of each method is right, wrong or neutral. Recall@1 is over
the keyframes whose index holds a right one. Average precision and R@100P say how well the score tells right from wrong.
"supported" are those best candidates that the uncalibrated rule lets pass, right and wrong ones. Intervals
are block bootstraps over keyframes, for the worlds over whole worlds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import gettempdir

import numpy as np
from numpy.typing import NDArray

from progeo_edge.encoders import Encoder, load_encoder
from progeo_edge.evaluation.bootstrap import bootstrap, default_block_length, intervals
from progeo_edge.evaluation.curves import precision_recall
from tools.motion_replay import Outcome, Recording, corridor, donkeycar, meiji, replay, world

FIRST_WORLD = 100
RESAMPLES = 300
METHODS: dict[str, tuple[str, ...]] = {
    "single image": ("motion.method=none",),
    "k of n": ("motion.method=k_of_n",),
    "sequence, 5": ("motion.method=sequence", "motion.length=5"),
    "sequence, 10": ("motion.method=sequence", "motion.length=10"),
    "HMM": ("motion.method=hmm",),
}


def main() -> None:
    """Replay every recording with every method."""
    arguments = _arguments()
    encoder = load_encoder(arguments.encoder)
    print("| recording | method | recall@1 [95 %] | average precision | R@100P | supported: right, wrong |")
    print("|---|---|---|---|---|---|")
    for recordings in _all_recordings(arguments, encoder):
        for method, settings in METHODS.items():
            # Counts tie far too often to order candidates by them.
            ordered_by_motion = method not in ("single image", "k of n")
            outcomes = [replay(one, settings, ordered_by_motion=ordered_by_motion) for one in recordings]
            print(_row(recordings[0].name, method, outcomes), flush=True)
    encoder.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dev", type=Path, help="folder of the dev sets")
    parser.add_argument("--worlds", type=int, default=0, help=f"rendered worlds, from seed {FIRST_WORLD} on")
    parser.add_argument("--cache", type=Path, default=Path(gettempdir()), help="folder where rendered worlds are kept")
    parser.add_argument("--encoder", default="vlad")
    return parser.parse_args()


def _all_recordings(arguments: argparse.Namespace, encoder: Encoder) -> Iterator[list[Recording]]:
    dev = arguments.dev
    for laps in (1, 2):
        yield [corridor(dev, encoder, laps=laps)]
    yield [donkeycar(dev, encoder)]
    yield [meiji(dev, encoder)]
    seeds = range(FIRST_WORLD, FIRST_WORLD + arguments.worlds)
    for with_odometry in (True, False) if seeds else ():
        yield [world(seed, encoder, arguments.cache, with_odometry=with_odometry) for seed in seeds]


def _row(recording: str, method: str, outcomes: Sequence[Outcome]) -> str:
    recall, precision, at_100 = _measured(outcomes)
    supported = [sum(int((o.passes & (o.verdicts == verdict)).sum()) for o in outcomes) for verdict in (1, -1)]
    num_queries = sum(int(o.has_right.sum()) for o in outcomes)
    figures = f"{recall} | {precision} | {at_100} | {supported[0]}, {supported[1]}"
    return f"| {recording} ({num_queries}) | {method} | {figures} |"


def _measured(outcomes: Sequence[Outcome]) -> list[str]:
    """Three figures with intervals; worlds are resampled as wholes, a single recording in blocks."""
    parts = [
        np.flatnonzero(np.repeat(np.arange(len(outcomes)), [len(o.scores) for o in outcomes]) == i)
        for i in range(len(outcomes))
    ]
    has_right = np.concatenate([o.has_right for o in outcomes])
    verdicts = np.concatenate([o.verdicts for o in outcomes])
    scores = np.concatenate([o.scores for o in outcomes])
    figures: Callable[[NDArray[np.int64]], NDArray[np.float64]] = partial(_figures, has_right, verdicts, scores)
    everything = np.arange(len(scores))
    if len(parts) > 1:
        samples = bootstrap(
            lambda drawn: figures(np.concatenate([parts[i] for i in drawn])), len(parts), resamples=RESAMPLES
        )
    else:
        samples = bootstrap(figures, len(scores), block_length=default_block_length(len(scores)), resamples=RESAMPLES)
    return [interval.percent() for interval in intervals(figures(everything), samples)]


def _figures(
    has_right: NDArray[np.bool_], verdicts: NDArray[np.int8], scores: NDArray[np.float64], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Recall@1, average precision and R@100P of some keyframes; NaN where none of them has a right reference."""
    num_right = int(has_right[rows].sum())
    if num_right == 0:
        return np.full(3, np.nan)
    found = (verdicts[rows] == 1) & has_right[rows]
    curve = precision_recall(scores[rows], verdicts[rows], num_right)
    return np.array([found.sum() / num_right, curve.average_precision(), curve.recall_at_precision(1.0)[0]])


if __name__ == "__main__":
    main()
