"""Recall@1 of the built-in encoders on the development sets, as a Markdown table.

    python tools/dev_table.py ../shared/data/dev [--encoder vlad] [--encoder thumbnail] [--encoder orb-bow]

The default runs all three, and `vlad` with the re-ranker. The sets and their labels are described in the folder's
own README; docs/evaluation.md says what counts as a query on each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from progeo_edge.cli.eval_options import open_encoder
from progeo_edge.config import SearchConfig
from progeo_edge.evaluation.protocols import (
    DescribedSet,
    RetrievalSet,
    describe_set,
    rank_set,
    set_from_matches,
    set_from_places,
    set_from_sequence,
)
from progeo_edge.evaluation.retrieval import judge_retrieval

ENCODERS = ("thumbnail", "orb-bow", "vlad")


def main() -> None:
    """Describe every set with every encoder and print one row per method."""
    arguments = _parse_arguments()
    sets = dev_sets(arguments.folder)
    print(f"| recall@1, percent | {' | '.join(sets)} | mean | ms |")
    print(f"|---|{'---|' * (len(sets) + 2)}")
    for name in arguments.encoder or ENCODERS:
        encoder = open_encoder(name)
        described = {title: describe_set(images, encoder) for title, images in sets.items()}
        encoder.close()
        encode_ms = float(np.median(np.concatenate([one.encode_ms for one in described.values()])))
        print(_row(name, sets, described, None, encode_ms), flush=True)
        if name not in ("thumbnail", "orb-bow") and not arguments.no_rerank:
            weight = arguments.rerank_weight
            print(_row(f"{name} + re-ranker ({weight:g})", sets, described, weight, encode_ms), flush=True)
    print(f"\nQueries: {', '.join(f'{title} {_num_queries(images)}' for title, images in sets.items())}.")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Recall@1 on the development sets as a Markdown table.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--encoder", action="append", help="repeat for several; default: thumbnail, orb-bow, vlad")
    parser.add_argument("--no-rerank", action="store_true")
    parser.add_argument("--rerank-weight", type=float, default=SearchConfig().rerank_weight)
    return parser.parse_args()


def dev_sets(folder: Path) -> dict[str, RetrievalSet]:
    """The development sets by name."""
    donkeycar = folder / "donkeycar_room_laps"
    michigan = folder / "grief_michigan_12x5"
    return {
        "Essex": _two_folders(folder / "thumbs_essex3in1"),
        "corridor": _two_folders(folder / "vprbench_corridor"),
        "Michigan": set_from_places(michigan, michigan / "places.csv"),
        "donkeycar": set_from_sequence(
            donkeycar, donkeycar / "matches.csv", donkeycar / "keyframes.csv", exclude_within_s=5.0
        ),
        "Moscow": _two_folders(folder / "moscow_street_buildings"),
    }


def _two_folders(folder: Path) -> RetrievalSet:
    return set_from_matches(folder / "queries", folder / "database", folder / "matches.csv")


def _row(
    name: str,
    sets: dict[str, RetrievalSet],
    described: dict[str, DescribedSet],
    rerank_weight: float | None,
    encode_ms: float,
) -> str:
    recalls = []
    for title, images in sets.items():
        ranking = rank_set(images, described[title], rerank_weight=rerank_weight)
        recalls.append(judge_retrieval(ranking, images.truth).recall[1])
    mean = 100 * float(np.mean([interval.value for interval in recalls if interval.value is not None]))
    cells = " | ".join(interval.percent(bound_digits=0) for interval in recalls)
    return f"| {name} | {cells} | {mean:.1f} | {encode_ms:.1f} |"


def _num_queries(images: RetrievalSet) -> int:
    return sum(len(positives) > 0 for positives in images.truth.positives)


if __name__ == "__main__":
    main()
