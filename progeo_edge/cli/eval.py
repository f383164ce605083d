"""`progeo-eval`: what an encoder, a run and the shipped profiles reach against labels or true poses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from progeo_edge.cli.console import new_app, progress, run_app
from progeo_edge.cli.eval_options import JsonOption, PlotOption, SeedOption, open_encoder, write_json
from progeo_edge.cli.eval_profiles import PROFILES_HELP, profiles
from progeo_edge.cli.eval_runs import LOOPS_HELP, TRAJECTORY_HELP, loops, trajectory
from progeo_edge.cli.eval_tables import print_retrieval
from progeo_edge.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from progeo_edge.evaluation.protocols import RetrievalSet

RETRIEVAL_HELP = """Recall@1/5/10/20 of an encoder, with bootstrap intervals.

An image counts as a query when at least one database image is labelled positive for it; the others are counted and
left out. Pairs labelled `ignore` are no candidates.

Examples:

- two folders and a table (query, database, label):
  `progeo-eval retrieval --queries Q --database DB --matches matches.csv --encoder vlad`

- UTM file names (`@ east @ north @ ... @.jpg`), positive within 25 m:
  `progeo-eval retrieval --queries Q --database DB --utm --encoder BUNDLE`

- one folder of places (image, place), leave-one-out:
  `progeo-eval retrieval --images DIR --places places.csv --encoder orb-bow`

- one recording (query, earlier, label), without pairs closer than 5 s:
  `progeo-eval retrieval --images DIR --matches matches.csv --times keyframes.csv --exclude-within-s 5`
"""

app = new_app(
    "Measure an encoder, a run, or the shipped profiles against labels or true poses.\n\n"
    "Examples: `progeo-eval retrieval --queries Q --database DB --matches matches.csv`, "
    "`progeo-eval loops out --matches matches.csv`, `progeo-eval trajectory out --truth truth.tum`, "
    "`progeo-eval profiles drive.mp4 --truth truth.tum --out compared`"
)
app.command(help=LOOPS_HELP)(loops)
app.command(help=TRAJECTORY_HELP)(trajectory)
app.command(help=PROFILES_HELP)(profiles)


@app.command(help=RETRIEVAL_HELP)
def retrieval(
    queries: Annotated[Path | None, typer.Option(help="folder of query images")] = None,
    database: Annotated[Path | None, typer.Option(help="folder of database images")] = None,
    images: Annotated[Path | None, typer.Option(help="one folder whose images ask each other")] = None,
    matches: Annotated[Path | None, typer.Option(help="table: query, database (or earlier), label")] = None,
    utm: Annotated[bool, typer.Option("--utm", help="labels from UTM file names")] = False,
    radius_m: Annotated[float, typer.Option(help="with --utm: positive within this distance")] = 25.0,
    places: Annotated[Path | None, typer.Option(help="with --images, table: image, place")] = None,
    times: Annotated[
        Path | None, typer.Option(help="with --images, table: image, time_s; only these take part")
    ] = None,
    exclude_within_s: Annotated[float, typer.Option(min=0, help="with --times: leave out pairs closer in time")] = 0.0,
    encoder: Annotated[
        str, typer.Option(help="vlad, thumbnail, orb-bow, a bundle, or a .safetensors checkpoint")
    ] = "vlad",
    whitening: Annotated[
        Path | None, typer.Option(help="whitening of this encoder, from progeo-calibrate --whiten")
    ] = None,
    rerank: Annotated[bool, typer.Option(help="re-rank the first candidates by their appearance grids")] = False,
    rerank_weight: Annotated[float | None, typer.Option(min=0, max=1, help="default: that of the pipeline")] = None,
    block_length: Annotated[
        int, typer.Option(min=1, help="queries resampled together; above 1 when neighbours resemble each other")
    ] = 1,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
    plot: PlotOption = None,
) -> None:
    """Recall of an encoder; see `RETRIEVAL_HELP`."""
    from progeo_edge.config import SearchConfig
    from progeo_edge.evaluation.plots import check_plot_path, plot_recall
    from progeo_edge.evaluation.protocols import describe_set, rank_set
    from progeo_edge.evaluation.retrieval import judge_retrieval

    if plot is not None:
        check_plot_path(plot)
    chosen = _choose_set(queries, database, images, matches, places, times, radius_m if utm else None, exclude_within_s)
    default_weight = SearchConfig().rerank_weight if rerank else None
    weight = rerank_weight if rerank and rerank_weight is not None else default_weight
    model = open_encoder(encoder, whitening)
    try:
        with progress("images") as bar:
            task = bar.add_task(f"describing with {model.spec.name}", total=chosen.num_images)
            described = describe_set(chosen, model, lambda: bar.advance(task))
    finally:
        model.close()
    ranking = rank_set(chosen, described, rerank_weight=weight)
    result = judge_retrieval(ranking, chosen.truth, block_length=block_length, seed=seed)

    name = model.spec.name if weight is None else f"{model.spec.name} + re-ranking"
    record = result.to_dict() | {
        "encoder": {
            "name": model.spec.name,
            "fingerprint": model.spec.fingerprint,
            "dimension": model.spec.dimension,
        },
        "rerank_weight": weight,
        "block_length": block_length,
        "encode_ms": _percentiles(described.encode_ms),
        "missed": [
            {"query": str(chosen.queries[row]), "first": str(chosen.database[ranking.rows[row, 0]])}
            for row in result.missed
            if ranking.rows[row, 0] >= 0
        ],
    }
    write_json(record, json_file)
    if json_file != Path("-"):
        print_retrieval(name, result, record["encode_ms"])
    if plot is not None:
        plot_recall({name: result}, plot)


def main() -> None:
    """Entry point."""
    run_app(app)


def _choose_set(
    queries: Path | None,
    database: Path | None,
    images: Path | None,
    matches: Path | None,
    places: Path | None,
    times: Path | None,
    utm_radius_m: float | None,
    exclude_within_s: float,
) -> RetrievalSet:
    from progeo_edge.evaluation import protocols

    labels = [matches is not None, places is not None, utm_radius_m is not None]
    if sum(labels) != 1:
        raise ConfigError(f"{sum(labels)} kinds of labels given; give one of --matches CSV, --places CSV, --utm")
    if images is not None and (queries is not None or database is not None):
        raise ConfigError("--images stands for both folders; leave out --queries and --database")
    if images is not None:
        if places is not None:
            return protocols.set_from_places(images, places)
        if matches is None:
            raise ConfigError("--utm compares two folders; give --queries and --database in place of --images")
        return protocols.set_from_sequence(images, matches, times, exclude_within_s)
    if queries is None or database is None:
        raise ConfigError("no images given; name --queries DIR and --database DIR, or --images DIR")
    if times is not None or exclude_within_s > 0:
        raise ConfigError("--times and --exclude-within-s belong to one recording; use them with --images")
    if utm_radius_m is not None:
        return protocols.set_from_utm(queries, database, utm_radius_m)
    if matches is None:
        raise ConfigError("--places describes one folder; give --images DIR in place of --queries and --database")
    return protocols.set_from_matches(queries, database, matches)


def _percentiles(values_ms: NDArray[np.float64]) -> dict[str, float]:
    import numpy as np

    return {f"p{percent}": float(np.percentile(values_ms, percent)) for percent in (50, 90, 99)}


if __name__ == "__main__":
    main()
