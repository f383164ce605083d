"""Kills progeo-run at random moments and checks that nothing it had reported is lost.

    python tools/kill_runs.py SOURCE --kills 200

Every killed run is continued: in turn with --resume, and as a new session with --map. What counts as reported is a
whole line in candidates.jsonl. Ends with exit code 1 at the first loss.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from progeo_edge.map_store import MapStore

SETTINGS = ["--set", "keyframe.every_frame=true", "--no-report"]
START_UP_S = 0.3


def main() -> None:
    """Kill, look, go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="anything progeo-run reads; long enough that most runs are killed")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--max-seconds", type=float, default=2.5, help="a run is killed at a random moment up to this")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    kills = finished = reported = 0
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out0"
        how: list[str] = []
        while kills < arguments.kills:
            was_killed = _run_and_kill(arguments.source, out, how, arguments.max_seconds)
            kills += was_killed
            finished += not was_killed
            reported += _check(out)
            print(f"\r{kills} kills, {finished} finished, {reported} reported keyframes checked", end="", flush=True)
            out, how = _next(out, kills + finished, was_killed)
    print(f"\n{kills} kills: every reported keyframe is in its map, every map opens")


def _run_and_kill(source: str, out: Path, how: list[str], max_seconds: float) -> bool:
    """Whether the run was killed rather than finished."""
    command = [sys.executable, "-c", "from progeo_edge.cli.run import main; main()", source, "--out", str(out)]
    run = subprocess.Popen([*command, *SETTINGS, *how], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    time.sleep(random.uniform(START_UP_S, max_seconds))
    run.kill()
    _, complaint = run.communicate()
    if run.returncode not in (0, -9):
        sys.exit(f"\nprogeo-run ended with {run.returncode}: {complaint.decode()}")
    return run.returncode == -9


def _check(out: Path) -> int:
    """Number of reported keyframes; leaves the process when one is missing or the map does not open."""
    path = out / "map.progeo"
    if not path.exists():
        return 0
    with MapStore.open(path) as map_store:
        kept = {info.id for info in map_store.infos()}
        for keyframe_id in kept:
            map_store.keyframe(keyframe_id)
    lines = (out / "candidates.jsonl").read_text().split("\n")[:-1] if (out / "candidates.jsonl").exists() else []
    reported = {json.loads(line)["query_id"] for line in lines} - {None}
    if not reported <= kept:
        sys.exit(f"\nlost keyframes {sorted(reported - kept)[:10]} of {out}")
    if kept != set(range(len(kept))):
        sys.exit(f"\nkeyframe ids of {out} have holes")
    return len(reported)


def _next(out: Path, number: int, was_killed: bool) -> tuple[Path, list[str]]:
    """Where and how the following run goes on."""
    if not was_killed or not (out / "map.progeo").exists() or number % 40 == 0:
        return out.with_name(f"out{number}"), []
    if number % 10 == 5:
        return out.with_name(f"out{number}"), ["--map", str(out / "map.progeo")]
    return out, ["--resume"]


if __name__ == "__main__":
    main()
