"""Read what a run wrote: candidates.jsonl, closures.jsonl and the exclusion time of its config."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from progeo_edge.config import Config, load_config
from progeo_edge.errors import SourceError
from progeo_edge.types import Status

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScoredReference:
    """One candidate of a keyframe, as written.

    Attributes:
        reference: Name of the reference.
        status: Reason for "no", or ACCEPTED.
        scores: similarity, rerank_score, probability, motion_score, num_inliers; those that were written and not null.
        supported: Whether it passed what comes before the geometry; None in a run that does not say.
    """

    reference: str
    status: str
    scores: dict[str, float]
    supported: bool | None = None


@dataclass(frozen=True, slots=True)
class RunKeyframe:
    """One line of candidates.jsonl."""

    query: str
    stamp_ns: int
    status: str
    candidates: tuple[ScoredReference, ...]


@dataclass(frozen=True, slots=True)
class RunClosure:
    """One line of closures.jsonl."""

    query: str
    reference: str
    similarity: float
    num_inliers: int | None


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run as its folder tells it.

    Attributes:
        path: The folder.
        keyframes: In the order of the run.
        closures: The accepted ones.
        exclusion_s: `exclusion.time_s` of the run's config.yaml; 0 without that file.
        max_false_per_hour: `calibration.max_false_per_hour` of it; None without calibration.
    """

    path: Path
    keyframes: tuple[RunKeyframe, ...]
    closures: tuple[RunClosure, ...]
    exclusion_s: float
    max_false_per_hour: float | None = None

    @property
    def hours(self) -> float:
        """Time from the first keyframe to the last."""
        return self.hours_from(0)

    def hours_from(self, row: int) -> float:
        """Time from keyframe number `row` to the last."""
        return (self.keyframes[-1].stamp_ns - self.keyframes[row].stamp_ns) * 1e-9 / 3600.0


SCORES = ("similarity", "rerank_score", "probability", "motion_score", "num_inliers")


def read_run(path: Path) -> RecordedRun:
    """Read the folder of `progeo-run`.

    Raises:
        SourceError: no run in the folder, or a line that is not what a run writes.
        ConfigError: an unreadable config.yaml.
    """
    candidates = path / "candidates.jsonl"
    if not candidates.is_file():
        raise SourceError(f"{path} holds no candidates.jsonl; give the --out folder of progeo-run")
    keyframes = [_keyframe(record, where) for record, where in _records(candidates)]
    kept = tuple(keyframe for keyframe in keyframes if keyframe.status != Status.NOT_A_KEYFRAME.value)
    if not kept:
        raise SourceError(f"{candidates} holds no keyframe; the run ended before its first one, so start it again")
    closures = path / "closures.jsonl"
    accepted = tuple(_closure(record, where) for record, where in _records(closures)) if closures.is_file() else ()
    config = path / "config.yaml"
    if not config.is_file():
        return RecordedRun(path, kept, accepted, exclusion_s=0.0)
    settings = load_config(config)
    return RecordedRun(path, kept, accepted, settings.exclusion.time_s, _promised_per_hour(settings))


def _promised_per_hour(settings: Config) -> float | None:
    calibration = getattr(settings, "calibration", None)
    if calibration is None or not calibration.enabled:
        return None
    return float(calibration.max_false_per_hour)


def _records(path: Path) -> list[tuple[dict[str, object], str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read: {error}; run progeo-run again") from error
    records: list[tuple[dict[str, object], str]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                logger.warning("%s line %d is cut off (the run was killed?) and is left out", path, number)
                break
            raise SourceError(f"{path} line {number} is no JSON: {error}; delete the line or run again") from error
        if not isinstance(record, dict):
            raise SourceError(f"{path} line {number} holds a {type(record).__name__}; expected an object in braces")
        records.append((record, f"{path} line {number}"))
    return records


def _keyframe(record: Mapping[str, object], where: str) -> RunKeyframe:
    candidates = record.get("candidates")
    if not isinstance(candidates, list):
        raise _not_of_a_run(record, "candidates", where)
    stamp_ns = record.get("stamp_ns")
    if not isinstance(stamp_ns, int):
        raise _not_of_a_run(record, "stamp_ns", where)
    return RunKeyframe(
        query=_text(record, "query", where),
        stamp_ns=stamp_ns,
        status=_text(record, "status", where),
        candidates=tuple(_candidate(candidate, where) for candidate in candidates),
    )


def _candidate(record: object, where: str) -> ScoredReference:
    if not isinstance(record, dict):
        raise SourceError(f"{where}: a candidate is a {type(record).__name__}; expected an object in braces")
    return ScoredReference(
        reference=_text(record, "reference", where),
        status=_text(record, "status", where),
        scores={"similarity": _number(record, "similarity", where)}
        | {name: _number(record, name, where) for name in SCORES if record.get(name) is not None},
        supported=_flag(record, "supported", where),
    )


def _closure(record: Mapping[str, object], where: str) -> RunClosure:
    return RunClosure(
        query=_text(record, "query", where),
        reference=_text(record, "reference", where),
        similarity=_number(record, "similarity", where),
        num_inliers=None if record.get("num_inliers") is None else int(_number(record, "num_inliers", where)),
    )


def _text(record: Mapping[str, object], name: str, where: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise _not_of_a_run(record, name, where)
    return value


def _flag(record: Mapping[str, object], name: str, where: str) -> bool | None:
    value = record.get(name)
    if value is not None and not isinstance(value, bool):
        raise _not_of_a_run(record, name, where)
    return value


def _number(record: Mapping[str, object], name: str, where: str) -> float:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _not_of_a_run(record, name, where)
    return float(value)


def _not_of_a_run(record: Mapping[str, object], name: str, where: str) -> SourceError:
    return SourceError(f"{where}: {name} is {record.get(name)!r}, which progeo-run does not write; run it again")
