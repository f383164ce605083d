"""The JSON file that a benchmark writes: what was measured, on which machine, with which options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

import progeo_edge
from progeo_edge import atomic
from progeo_edge.errors import InputError

SCHEMA_VERSION = 1
FORMAT = "progeo-bench"

Kind = Literal["run", "vs", "soak"]

_FIELDS = {"kind": str, "date": str, "progeo_edge": str, "options": dict, "machine": dict, "figures": dict}


@dataclass(frozen=True)
class BenchmarkResult:
    """One measurement with everything that is needed to judge it.

    Attributes:
        kind: Which command made it.
        options: What the command was told, as plain JSON. Files by name only: a result is there to be shown.
        machine: As `describe_machine` gives it.
        figures: What was measured, as plain JSON without NaN; its layout belongs to the kind.
        date: UTC, ISO 8601 to the second.
        progeo_edge: Version of this package.
    """

    kind: Kind
    options: Mapping[str, Any]
    machine: Mapping[str, Any]
    figures: Mapping[str, Any]
    date: str
    progeo_edge: str


def new_result(
    kind: Kind, options: Mapping[str, Any], machine: Mapping[str, Any], figures: Mapping[str, Any]
) -> BenchmarkResult:
    """A result of now and of this version."""
    date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return BenchmarkResult(kind, options, machine, figures, date, progeo_edge.__version__)


def write_result(path: Path, result: BenchmarkResult) -> None:
    """Write a result atomically.

    Raises:
        InputError: the file cannot be written.
        ValueError: a figure is NaN or infinite, which is an error of the caller.
    """
    content = {"format": FORMAT, "schema_version": SCHEMA_VERSION}
    content |= {name: getattr(result, name) for name in _FIELDS}
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    try:
        atomic.write_text(path, text)
    except OSError as error:
        raise InputError(f"result {path} cannot be written: {error}; name a file in an existing folder") from error


def read_result(path: Path, kind: Kind | None = None) -> BenchmarkResult:
    """Read a result back.

    Args:
        path: The file.
        kind: What it must be; None takes any.

    Raises:
        InputError: missing, no JSON, not made by progeo-bench, of a newer schema, incomplete, or of another kind.
    """
    content = _read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is JSON, but not a result of progeo-bench; name a file written with --json")
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {version}, this progeo-edge reads {SCHEMA_VERSION}; measure again with one "
            "version, or read it with the one that wrote it"
        )
    for name, expected in _FIELDS.items():
        if not isinstance(content.get(name), expected):
            raise InputError(f"{path} has no {name}, so it is damaged or was altered; measure again")
    if content["kind"] not in get_args(Kind):
        raise InputError(f"{path} is of kind {content['kind']!r}; expected {', '.join(get_args(Kind))}")
    if kind is not None and content["kind"] != kind:
        raise InputError(f"{path} holds a result of kind {content['kind']!r}; expected {kind!r}")
    return BenchmarkResult(**{name: content[name] for name in _FIELDS})


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"result {path} cannot be read: {reason}; name a file written with --json") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({error}); name a file written with --json") from error
