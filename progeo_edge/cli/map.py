"""progeo-map: look into a map, merge, prune, export, salvage, and find a place in it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from progeo_edge.cli.console import console, new_app, progress, run_app
from progeo_edge.cli.locate import LOCATE_HELP, locate
from progeo_edge.errors import InputError, MapError

if TYPE_CHECKING:
    from progeo_edge.map_store import MapStore

HELP = """
Look into a map, and make other maps from it. No command changes the map it reads.

**Examples**

    # What is in it, and is it sound?
    progeo-map info out/map.progeo

    # One map of two drives with the same encoder
    progeo-map merge monday.progeo tuesday.progeo -o week.progeo

    # Leave out the most redundant keyframes, or old sessions
    progeo-map prune week.progeo --keep 2000 -o small.progeo
    progeo-map prune week.progeo --older-than 30d -o recent.progeo

    # NumPy, CSV, TUM and JPEG files
    progeo-map export week.progeo -o week/

    # Where does this recording begin?
    progeo-map locate out/map.progeo tuesday.mp4

    # All that can still be read of a damaged map
    progeo-map salvage damaged.progeo -o rescued.progeo

docs/map.md describes the file for other programs.
"""

_UNITS_S = {"min": 60, "h": 3600, "d": 86_400, "w": 604_800}

MapFile = Annotated[Path, typer.Argument(help="map file, such as out/map.progeo")]
OutFile = Annotated[Path, typer.Option("--out", "-o", help="map file to write")]
Force = Annotated[bool, typer.Option("--force", help="replace the output when it exists")]

app = new_app(HELP)
app.command(help=LOCATE_HELP)(locate)


@app.command()
def info(
    map_file: MapFile,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    check: Annotated[bool, typer.Option(help="read every byte and compare checksums")] = True,
) -> None:
    """Say what a map holds and whether it is sound; exit code 2 when it is damaged."""
    from progeo_edge.map_rescue import find_problems
    from progeo_edge.map_store import MapStore

    with MapStore.open(map_file, read_only=True) as store:
        problems: list[str] | None = None
        if check:
            with _counting("checking", len(store)) as advance:
                problems = find_problems(store, advance)
        if problems:
            _refuse_damaged(map_file, problems, as_json=as_json)
        summary = _summary(store, checked=check)
    if as_json:
        _print_json(summary)
    else:
        _print_summary(summary)


@app.command()
def merge(
    maps: Annotated[list[Path], typer.Argument(help="two or more maps of one encoder")],
    out: OutFile,
    force: Force = False,
) -> None:
    """Write one map with the sessions, keyframes and closures of several; keyframes are renumbered in that order."""
    from progeo_edge.map_tools import merge_maps

    with _counting("merging", sum(map(_num_keyframes, maps))) as advance:
        count = merge_maps(maps, out, force=force, advance=advance)
    console().print(f"{out}: {count} keyframes of {len(maps)} maps", soft_wrap=True)


@app.command()
def prune(
    map_file: MapFile,
    out: OutFile,
    keep: Annotated[int | None, typer.Option(min=1, help="keyframes to keep; those in closures always are")] = None,
    older_than: Annotated[
        str | None, typer.Option(help="leave out sessions that began longer ago: 90min, 12h, 30d or 8w")
    ] = None,
    force: Force = False,
) -> None:
    """Write a smaller map: without old sessions, then without the keyframes most like their neighbours."""
    from progeo_edge.map_tools import prune_map

    if keep is None and older_than is None:
        raise InputError("nothing to prune; give --keep N, --older-than AGE, or both")
    started_after_ns = None if older_than is None else time.time_ns() - _age_ns(older_than)
    count = _num_keyframes(map_file)
    with _counting("pruning", min(count, keep or count)) as advance:
        removed = prune_map(map_file, out, keep=keep, started_after_ns=started_after_ns, force=force, advance=advance)
    console().print(f"{out}: {count - removed} of {count} keyframes kept", soft_wrap=True)


@app.command()
def export(
    map_file: MapFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder to write")],
    force: Annotated[bool, typer.Option("--force", help="replace an earlier export")] = False,
) -> None:
    """Write descriptors.npy, keyframes.csv, closures.csv, thumbnails/, trajectory_*.txt and map.json."""
    from progeo_edge.map_export import export_map

    with _counting("exporting", _num_keyframes(map_file)) as advance:
        export_map(map_file, out, force=force, advance=advance)
    console().print(f"{out}: {_num_keyframes(map_file)} keyframes exported", soft_wrap=True)


@app.command()
def salvage(map_file: MapFile, out: OutFile, force: Force = False) -> None:
    """Write a map of everything that can still be read of a damaged one, and say what was lost."""
    from progeo_edge.map_rescue import salvage_map

    with _counting("salvaging", _num_keyframes(map_file)) as advance:
        rescued = salvage_map(map_file, out, force=force, advance=advance)
    for loss in rescued.losses:
        console().print(f"lost: {loss}", style="yellow", markup=False, soft_wrap=True)
    console().print(f"{out}: {rescued.num_keyframes} keyframes, {rescued.num_closures} closures", soft_wrap=True)


def _num_keyframes(path: Path) -> int:
    from progeo_edge.map_store import MapStore

    with MapStore.open(path, read_only=True) as store:
        return len(store)


@contextmanager
def _counting(description: str, total: int) -> Iterator[Callable[[], None]]:
    with progress("keyframes") as bar:
        task = bar.add_task(description, total=total)
        yield lambda: bar.advance(task)


def _age_ns(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(min|h|d|w)", text.strip())
    if match is None:
        raise InputError(f"--older-than {text!r} is no age; write a number and a unit: 90min, 12h, 30d or 8w")
    return int(float(match[1]) * _UNITS_S[match[2]] * 1e9)


def _refuse_damaged(path: Path, problems: list[str], *, as_json: bool) -> None:
    from progeo_edge.map_opening import RESCUE

    if as_json:
        _print_json({"path": str(path), "integrity": problems})
    else:
        for problem in problems:
            console().print(problem, style="yellow", markup=False, soft_wrap=True)
    raise MapError(f"map {path} is damaged (problems found: {len(problems)}); {RESCUE}")


def _summary(store: MapStore, *, checked: bool) -> dict[str, Any]:
    from collections import Counter
    from dataclasses import asdict

    from progeo_edge.map_schema import SCHEMA_VERSION

    assert store.path is not None
    closures = store.closures()
    kinds = Counter("NOT_VERIFIED" if c.verification is None else c.verification.pose_kind.value for c in closures)
    with store.database.reading():
        sizes = store.database.sizes()
    return {
        "path": str(store.path),
        "file_bytes": store.path.stat().st_size,
        "schema": SCHEMA_VERSION,
        "map_id": store.map_id,
        "model": asdict(store.spec),
        "descriptor_dtype": store.descriptor_dtype,
        "integrity": "ok" if checked else "not checked",
        "num_keyframes": len(store),
        "keyframes_by_status": dict(Counter(info.status.value for info in store.infos()).most_common()),
        "num_closures": len(closures),
        "closures_by_pose_kind": dict(kinds.most_common()),
        "sessions": [
            {
                "id": session.id,
                "name": session.name,
                "started_ns": session.started_ns,
                "num_keyframes": session.num_keyframes,
                "calibrated": session.camera is not None,
            }
            for session in store.sessions()
        ],
        "tables": {table: {"rows": rows, "bytes": size} for table, (rows, size) in sizes.items()},
        "documents": store.document_keys(),
        "blobs": store.blob_keys(),
    }


def _print_summary(summary: dict[str, Any]) -> None:
    from datetime import datetime, timezone

    from rich.markup import escape
    from rich.table import Table

    out = console()
    model = summary["model"]
    per_keyframe = summary["file_bytes"] / max(1, summary["num_keyframes"])
    facts = Table(show_header=False, box=None, pad_edge=False)
    precision = f"{model['dimension']} x {summary['descriptor_dtype']}"
    for name, value in (
        ("map", f"{summary['path']} (id {summary['map_id'][:12]}, schema {summary['schema']})"),
        (
            "model",
            f"{model['name']}, {precision}, fingerprint {model['fingerprint'][:12]}",
        ),
        ("size", f"{_size(summary['file_bytes'])}, {_size(per_keyframe)} per keyframe"),
        ("keyframes", _counted(summary["num_keyframes"], summary["keyframes_by_status"])),
        ("closures", _counted(summary["num_closures"], summary["closures_by_pose_kind"])),
        ("integrity", summary["integrity"]),
    ):
        facts.add_row(name, escape(value))
    out.print(facts)
    sessions = Table(
        "session", "name", "began (UTC)", "keyframes", "calibrated", title="Sessions", title_justify="left"
    )
    for session in summary["sessions"]:
        began = datetime.fromtimestamp(session["started_ns"] / 1e9, tz=timezone.utc).strftime("%Y-%m-%d %H:%M")
        calibrated = "yes" if session["calibrated"] else "no"
        sessions.add_row(str(session["id"]), escape(session["name"]), began, str(session["num_keyframes"]), calibrated)
    out.print(sessions)
    tables = Table("table", "rows", "content", title="Tables", title_justify="left")
    for name, table in summary["tables"].items():
        tables.add_row(name, str(table["rows"]), _size(table["bytes"]))
    out.print(tables)


def _counted(total: int, parts: dict[str, int]) -> str:
    details = ", ".join(f"{count} {name}" for name, count in parts.items())
    return f"{total} ({details})" if details else str(total)


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2))


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} GB"


def main() -> None:
    """Entry point of the command."""
    run_app(app)


if __name__ == "__main__":
    main()
