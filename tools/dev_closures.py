"""Closures of the shipped profiles on the labelled development recordings, as Markdown: python tools/dev_closures.py.

donkeycar: its keyframes as they come. Corridor: database, then queries, as two laps of one run. Exclusion windows are
stated beside the results, since a hall is driven round faster than a street. The corridor's labels reach 2 to 3 frames;
up to `NEUTRAL_FRAMES` beyond them a pair still shows the same stretch of wall, and is left out of the count.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path

from progeo_edge.config import load_config
from progeo_edge.detector import LoopDetector
from progeo_edge.encoders import load_encoder
from progeo_edge.evaluation.bootstrap import Interval
from progeo_edge.evaluation.labels import read_matches
from progeo_edge.evaluation.loops import judge_loops
from progeo_edge.evaluation.recorded_run import read_run
from progeo_edge.map_store import MapStore
from progeo_edge.runner import run
from progeo_edge.sources import open_source

NEUTRAL_FRAMES = 4
RUNS = {
    "donkeycar": ["keyframe.every_frame=true", "exclusion.time_s=5", "exclusion.keyframes=3"],
    "corridor, two laps": ["keyframe.every_frame=true", "exclusion.time_s=30", "exclusion.keyframes=30"],
}
VARIANTS = {
    "conservative": [],
    "conservative, SIFT": ["verification.detector=sift"],
    "conservative, no re-ranker": ["search.rerank=false"],
    "balanced": ["profile=balanced"],
    "no geometry (recall)": ["profile=recall"],
}


def main() -> None:
    """Run every variant on every recording."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dev", type=Path, nargs="?", default=Path("../shared/data/dev"), help="folder of the dev sets")
    dev = parser.parse_args().dev.resolve()
    print("| recording | variant | closures | false | neutral | precision | recall [95 %] | of revisits |")
    print("|---|---|---|---|---|---|---|---|")
    for recording, settings in RUNS.items():
        for variant, more in VARIANTS.items():
            print(_row(dev, recording, variant, [*settings, *more]), flush=True)


def _row(dev: Path, recording: str, variant: str, settings: list[str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        source_path, matches = _recording(dev, recording, out)
        config = load_config(overrides=settings, defaults={"budget": {"deadline_ms": 0.0}})
        encoder = load_encoder("vlad")
        with MapStore.create(None, encoder.spec) as map_store:
            detector = LoopDetector(encoder, map_store, None, config)
            run(open_source(source_path), detector, out)
        result = judge_loops(read_run(out), read_matches(matches), exclusion_s=config.exclusion.time_s)
    return (
        f"| {recording} | {variant} | {result.num_closures} | {len(result.false_closures)} | "
        f"{result.num_neutral_closures} | {_percent(result.precision)} | {_percent(result.recall)} | "
        f"{result.num_revisits} |"
    )


def _recording(dev: Path, recording: str, out: Path) -> tuple[Path, Path]:
    if recording == "donkeycar":
        folder = dev / "donkeycar_room_laps"
        return folder / "keyframes.csv", folder / "matches.csv"
    folder = dev / "vprbench_corridor"
    source, matches = out / "list.csv", out / "matches.csv"
    images = [*sorted((folder / "database").glob("*.jpg")), *sorted((folder / "queries").glob("*.jpg"))]
    _write(source, ["image", "time_s"], ((str(image), second) for second, image in enumerate(images)))
    _write(matches, ["query", "database", "label"], _with_neutral_band(folder / "matches.csv"))
    return source, matches


def _with_neutral_band(path: Path) -> Iterator[tuple[str, str, str]]:
    """The labels, and `ignore` for the frames next to a positive."""
    with path.open(newline="", encoding="utf-8") as file:
        positives = {(row["query"], row["database"]) for row in csv.DictReader(file) if row["label"] == "positive"}
    yield from ((query, database, "positive") for query, database in sorted(positives))
    near = set()
    for query, database in positives:
        number = int(Path(database).stem)
        near |= {
            (query, f"database/{number + step:04d}.jpg")
            for step in range(-NEUTRAL_FRAMES, NEUTRAL_FRAMES + 1)
            if 0 <= number + step <= 110
        }
    yield from ((query, database, "ignore") for query, database in sorted(near - positives))


def _write(path: Path, header: list[str], rows: Iterator[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _percent(interval: Interval) -> str:
    if interval.value is None or interval.low is None or interval.high is None:
        return "none"
    return f"{100 * interval.value:.1f} [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


if __name__ == "__main__":
    main()
