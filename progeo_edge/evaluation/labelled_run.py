"""Put the labels of a table on the keyframes of a run: what is there to find, what must not be judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import SourceError
from progeo_edge.evaluation.labels import Matches, match_names
from progeo_edge.evaluation.recorded_run import RecordedRun


@dataclass(frozen=True, slots=True)
class LabelledRun:
    """The labels of `matches.csv` put on the keyframes of a run.

    Attributes:
        positives: Per keyframe, the label names of references that show its place, came before it and are outside
            the exclusion; empty when there is nothing to find.
        neutral: Per keyframe, label names that are judged neither right nor wrong: of the neutral band, and
            positives inside the exclusion.
        label_names: Name in the run to name in the table; absent when the table does not name it.
        num_excluded: Keyframes whose only positives lie inside the exclusion; they have nothing to find.
        num_unlisted: Keyframes that the table does not name at all; they count as places seen once.
    """

    positives: tuple[frozenset[str], ...]
    neutral: tuple[frozenset[str], ...]
    label_names: Mapping[str, str]
    num_excluded: int
    num_unlisted: int

    def has_positive(self) -> NDArray[np.bool_]:
        """(K,) bool: keyframes that have something to find, the denominator of every recall."""
        return np.array([bool(names) for names in self.positives])

    def verdict(self, keyframe: int, reference: str) -> int:
        """1 right, 0 neutral, -1 wrong, for the keyframe's number in the run and the name of a reference in the run."""
        name = self.label_names.get(reference, reference)
        if name in self.positives[keyframe]:
            return 1
        return 0 if name in self.neutral[keyframe] else -1

    def events(self) -> list[NDArray[np.int64]]:
        """Consecutive keyframes with a positive, as row numbers; one long revisit is one event.

        A keyframe that has only neutral references may show a known place or not: it does not end an event.
        """
        events: list[list[int]] = []
        inside = False
        for row, (positives, neutral) in enumerate(zip(self.positives, self.neutral, strict=True)):
            if positives:
                if not inside:
                    events.append([])
                events[-1].append(row)
                inside = True
            elif not neutral:
                inside = False
        return [np.array(event, np.int64) for event in events]


def label_run(run: RecordedRun, matches: Matches, exclusion_s: float) -> LabelledRun:
    """Find the labels of each keyframe.

    Of a pair of two keyframes, the later one asks and the earlier one is to be found. A name of the table that is no
    keyframe of the run counts as a reference only when the run started from an earlier map, which shows in references
    that are no keyframes of the run.

    Args:
        run: The run.
        matches: The labelled pairs.
        exclusion_s: Positives closer in time than this become neutral.

    Raises:
        SourceError: no keyframe is named in the table, a name is ambiguous, or two keyframes share a name.
    """
    queries = [keyframe.query for keyframe in run.keyframes]
    references = {candidate.reference for keyframe in run.keyframes for candidate in keyframe.candidates}
    references |= {closure.reference for closure in run.closures}
    names = match_names(sorted({*queries, *references}), matches.names())
    row_of = _rows_by_label(queries, names, run, matches)
    from_earlier_map = bool(references - set(queries))

    positives: list[set[str]] = [set() for _ in queries]
    neutral: list[set[str]] = [set() for _ in queries]
    inside: set[int] = set()
    for pair in sorted(matches.positive | matches.ignored):
        oriented = _orient(pair, row_of, from_earlier_map)
        if oriented is None:
            continue
        query, reference = oriented
        too_recent = _apart_s(run, query, row_of.get(reference)) < exclusion_s
        if pair in matches.ignored or too_recent:
            neutral[query].add(reference)
        else:
            positives[query].add(reference)
        if pair in matches.positive and too_recent:
            inside.add(query)
    return LabelledRun(
        positives=tuple(frozenset(found) for found in positives),
        neutral=tuple(frozenset(found) for found in neutral),
        label_names=names,
        num_excluded=sum(not positives[row] for row in inside),
        num_unlisted=sum(query not in names for query in queries),
    )


def _rows_by_label(
    queries: Sequence[str], names: Mapping[str, str], run: RecordedRun, matches: Matches
) -> dict[str, int]:
    row_of: dict[str, int] = {}
    for row, query in enumerate(queries):
        label = names.get(query)
        if label is None:
            continue
        if label in row_of:
            raise SourceError(
                f"keyframes {queries[row_of[label]]} and {query} of {run.path} are both {label} of {matches.path}; "
                "give the images of the run names of their own"
            )
        row_of[label] = row
    if not row_of:
        raise SourceError(
            f"none of the {len(queries)} keyframes of {run.path}, such as {queries[0]}, is named in {matches.path}; "
            "use the table that belongs to this recording"
        )
    return row_of


def _orient(pair: tuple[str, str], row_of: Mapping[str, int], from_earlier_map: bool) -> tuple[int, str] | None:
    first, second = row_of.get(pair[0]), row_of.get(pair[1])
    if first is not None and second is not None:
        return (first, pair[1]) if first > second else (second, pair[0])
    if not from_earlier_map:
        return None
    if first is not None:
        return first, pair[1]
    return None if second is None else (second, pair[0])


def _apart_s(run: RecordedRun, query: int, reference: int | None) -> float:
    if reference is None:
        return float("inf")
    return abs(run.keyframes[query].stamp_ns - run.keyframes[reference].stamp_ns) * 1e-9
