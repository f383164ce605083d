"""How far a keyframe came: one status for all of its candidates."""

from __future__ import annotations

from collections.abc import Sequence

from progeo_edge.types import Candidate, Status

PROGRESS: tuple[Status, ...] = (
    Status.NOT_A_KEYFRAME,
    Status.FROZEN,
    Status.UNRECOGNISABLE,
    Status.NO_CANDIDATE,
    Status.LOW_SIMILARITY,
    Status.SUPPRESSED,
    Status.NOT_VERIFIED,
    Status.DEADLINE,
    Status.FEW_MATCHES,
    Status.FEW_INLIERS,
    Status.LOW_INLIER_RATIO,
    Status.LOW_COVERAGE,
    Status.HIGH_REPROJECTION_ERROR,
    Status.DEGENERATE,
    Status.TOO_FAR,
    Status.INCONSISTENT_POSES,
    Status.FAILED_SEQUENCE,
    Status.GRAVITY,
    Status.ODOM_INCONSISTENT,
    Status.CONTRADICTED,
    Status.UNCONFIRMED,
    Status.AMBIGUOUS,
    Status.ACCEPTED,
)
"""How far each status stands along the pipeline."""


def overall_status(candidates: Sequence[Candidate]) -> Status:
    """The status of the candidate that came furthest; NO_CANDIDATE without one."""
    if not candidates:
        return Status.NO_CANDIDATE
    return max(candidates, key=_progress).status


def _progress(candidate: Candidate) -> int:
    if candidate.status is Status.ODOM_INCONSISTENT and candidate.verification is None:
        return PROGRESS.index(Status.SUPPRESSED)  # refused before any geometry
    return PROGRESS.index(candidate.status)
