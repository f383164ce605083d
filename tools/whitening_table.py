"""Does whitening help? Recall@1 on the development sets, plain and whitened: python -m tools.whitening_table.

Whitening is learned from images of other places (--train), with several shrinkages, and from the database of each set,
as a user would learn it from a first drive. Those databases are small: as many axes are kept as their size allows.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np

from progeo_edge.bundle import ModelSpec
from progeo_edge.cli.eval_options import open_encoder
from progeo_edge.encoders.whitening import FRAMES_PER_DIMENSION, SHRINKAGE, Whitening, fit_whitening
from progeo_edge.evaluation.protocols import DescribedSet, RetrievalSet, describe_set, rank_set
from progeo_edge.evaluation.retrieval import judge_retrieval
from progeo_edge.sources.images import read_image
from tools.dev_table import dev_sets

SHRINKAGES = (SHRINKAGE, 0.01, 0.1)


def main() -> None:
    """Describe everything once per encoder and print one row per whitening."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"), help="folder with dev and train")
    parser.add_argument("--encoder", action="append", help="repeat for several; default: vlad")
    parser.add_argument("--every", type=int, default=1, help="learn from every so many-th training image")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # every set here is smaller than what a whitening should be learned from
    sets = dev_sets(arguments.data / "dev")
    training = sorted((arguments.data / "train").rglob("*.jpg"))[:: arguments.every]
    print(f"| recall@1, percent | learned from | axes | {' | '.join(sets)} | mean |")
    print(f"|---|---|---|{'---|' * (len(sets) + 1)}")
    for name in arguments.encoder or ["vlad"]:
        encoder = open_encoder(name)
        described = {title: describe_set(images, encoder) for title, images in sets.items()}
        seen = np.concatenate([encoder.encode([read_image(path)]) for path in training])
        spec = encoder.spec
        encoder.close()
        _print_row(spec.name, "nothing", spec.dimension, sets, described, None)
        for shrinkage in SHRINKAGES:
            for dimension in dict.fromkeys((spec.dimension // 2, min(512, spec.dimension))):
                whitening = fit_whitening(seen, spec, dimension=dimension, shrinkage=shrinkage)
                words = f"{len(seen)} training images, shrinkage {shrinkage:g}"
                _print_row(spec.name, words, dimension, sets, described, dict.fromkeys(sets, whitening))
        own = {title: _from_database(one, spec) for title, one in described.items()}
        _print_row(spec.name, "each set's database", 0, sets, described, own)


def _from_database(described: DescribedSet, spec: ModelSpec) -> Whitening:
    allowed = len(described.database) // FRAMES_PER_DIMENSION
    return fit_whitening(described.database, spec, dimension=min(allowed, spec.dimension // 2, 512))


def _print_row(
    name: str,
    words: str,
    dimension: int,
    sets: dict[str, RetrievalSet],
    described: dict[str, DescribedSet],
    whitenings: dict[str, Whitening] | None,
) -> None:
    recalls = []
    for title, images in sets.items():
        one = described[title]
        if whitenings is not None:
            white = whitenings[title]
            one = DescribedSet(white.apply(one.queries), white.apply(one.database), one.encode_ms)
        recalls.append(judge_retrieval(rank_set(images, one), images.truth).recall[1])
    mean = 100 * float(np.mean([interval.value for interval in recalls if interval.value is not None]))
    cells = " | ".join(interval.percent(bound_digits=0) for interval in recalls)
    axes = str(dimension) if dimension else " / ".join(str(w.header.dimension) for w in (whitenings or {}).values())
    print(f"| {name} | {words} | {axes} | {cells} | {mean:.1f} |", flush=True)


if __name__ == "__main__":
    main()
