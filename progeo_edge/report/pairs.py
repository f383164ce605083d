"""Which image pairs the report shows: one per revisit, and the most convincing refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from progeo_edge.geometry import rotation_angle
from progeo_edge.map_store import MapStore
from progeo_edge.report.pictures import pair_picture
from progeo_edge.report.words import MEANING
from progeo_edge.types import LoopClosure, PoseKind, Status, Verification

MAX_ACCEPTED = 24
MAX_REFUSED_PER_REASON = 2
QUERY_GAP = 5
REFERENCE_GAP = 10
SHOWN_REFUSALS = (
    Status.CONTRADICTED,
    Status.ODOM_INCONSISTENT,
    Status.GRAVITY,
    Status.FAILED_SEQUENCE,
    Status.INCONSISTENT_POSES,
    Status.TOO_FAR,
    Status.DEGENERATE,
    Status.HIGH_REPROJECTION_ERROR,
    Status.LOW_COVERAGE,
    Status.LOW_INLIER_RATIO,
    Status.FEW_INLIERS,
    Status.FEW_MATCHES,
)


def revisits(closures: Sequence[LoopClosure]) -> list[list[LoopClosure]]:
    """Closures grouped into stretches: queries follow each other, references stay near each other."""
    groups: list[list[LoopClosure]] = []
    for closure in sorted(closures, key=lambda c: (c.query_id, c.reference_id)):
        for group in reversed(groups):
            last = group[-1]
            if closure.query_id - last.query_id > QUERY_GAP:
                continue
            if abs(closure.reference_id - last.reference_id) <= REFERENCE_GAP:
                group.append(closure)
                break
        else:
            groups.append([closure])
    return groups


def accepted_pairs(map_store: MapStore, closures: Sequence[LoopClosure]) -> list[dict[str, Any]]:
    """The best closure of every revisit, those with most inliers first, in order of the query."""
    best = [max(group, key=_num_inliers) for group in revisits(closures)]
    shown = sorted(best, key=_num_inliers, reverse=True)[:MAX_ACCEPTED]
    names = {info.id: info.name or str(info.id) for info in map_store.infos()}
    return [_accepted_pair(map_store, names, closure) for closure in sorted(shown, key=lambda c: c.query_id)]


def refused_pairs(map_store: MapStore, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per reason the refused candidates that came nearest to being believed."""
    names = {info.id: info.name or str(info.id) for info in map_store.infos()}
    result = []
    for status in SHOWN_REFUSALS:
        refused = [
            (candidate, record)
            for record in records
            for candidate in record["candidates"]
            if candidate["status"] == status.value and record["query_id"] in names
        ]
        refused.sort(key=lambda item: (item[0]["num_inliers"] or 0, item[0]["similarity"]), reverse=True)
        for candidate, record in refused[:MAX_REFUSED_PER_REASON]:
            picture = _picture(map_store, record["query_id"], candidate["reference_id"], None)
            if picture is not None:
                result.append(
                    {
                        "picture": picture,
                        "query": names[record["query_id"]],
                        "reference": names[candidate["reference_id"]],
                        "status": status.value,
                        "meaning": MEANING[status],
                        "facts": _refusal_facts(candidate),
                        "total": len(refused),
                    }
                )
    return result


def _accepted_pair(map_store: MapStore, names: Mapping[int, str], closure: LoopClosure) -> dict[str, Any]:
    return {
        "picture": _picture(map_store, closure.query_id, closure.reference_id, closure.verification),
        "query": names[closure.query_id],
        "reference": names[closure.reference_id],
        "facts": _closure_facts(closure),
        "is_reverse": bool(closure.is_reverse),
    }


def _picture(map_store: MapStore, query_id: int, reference_id: int, verification: Verification | None) -> str | None:
    """Data URI of the pair, None when the map keeps no thumbnails."""
    query, reference = map_store.thumbnail(query_id), map_store.thumbnail(reference_id)
    if query is None or reference is None:
        return None
    if verification is None or verification.query_px is None or verification.reference_px is None:
        return pair_picture(query, reference)
    query_features, reference_features = map_store.features(query_id), map_store.features(reference_id)
    if query_features is None or reference_features is None:
        return pair_picture(query, reference)
    return pair_picture(
        query,
        reference,
        np.divide(verification.query_px, query_features.image_size_px, dtype=np.float32),
        np.divide(verification.reference_px, reference_features.image_size_px, dtype=np.float32),
    )


def _num_inliers(closure: LoopClosure) -> int:
    return closure.verification.num_inliers if closure.verification is not None else 0


def _closure_facts(closure: LoopClosure) -> list[str]:
    facts = [f"cosine {closure.similarity:.2f}"]
    verification = closure.verification
    if verification is None:
        return facts
    facts.append(f"{verification.num_inliers} inliers of {verification.num_matches} matches")
    facts.append(f"{100 * verification.coverage:.0f} % of the image")
    if verification.T_reference_query is None:
        return [*facts, "no pose (no calibration)"]
    T = verification.T_reference_query
    turned = f"{np.degrees(rotation_angle(T[:3, :3])):.1f}°"
    if verification.pose_kind is PoseKind.METRIC:
        facts.append(f"{np.linalg.norm(T[:3, 3]):.2f} m, {turned} apart ({verification.scale_source.value.lower()})")
    elif verification.pose_kind is PoseKind.UP_TO_SCALE:
        facts.append(f"turned by {turned}, distance unknown")
    else:
        facts.append(f"turned by {turned}, hardly moved")
    return facts


def _refusal_facts(candidate: Mapping[str, Any]) -> list[str]:
    facts = [f"cosine {candidate['similarity']:.2f}"]
    if candidate["num_matches"] is not None:
        facts.append(f"{candidate['num_inliers']} inliers of {candidate['num_matches']} matches")
    return facts
