"""The gates of an export: figures that compare a graph with the FP32 model, and the limits that fail the export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from progeo_edge.bundle import Precision
from progeo_edge.parity import InterplaceLoss, cosines, interplace_loss, recall_at_1
from progeo_export.errors import ExportError, GateError

__all__ = ["LIMITS", "InterplaceLoss", "Limit", "check", "interplace_loss", "measure", "recall_at_1", "tolerances"]

_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Limit:
    """What one figure may be.

    Attributes:
        figure: Name of the figure, as in the manifest's `parity`.
        side: "at least" or "at most".
        bound: The limit.
        meaning: What the figure says, for a person.
        remedy: What to do when the limit is broken.
    """

    figure: str
    side: Literal["at least", "at most"]
    bound: float
    meaning: str
    remedy: str

    def allows(self, value: float) -> bool:
        """False also for NaN."""
        return value >= self.bound - _ROUNDING if self.side == "at least" else value <= self.bound + _ROUNDING


def _collapse() -> Limit:
    return Limit(
        "mean_cosine_between_places",
        "at most",
        0.9999,
        "mean cosine between different places",
        "the model gives nearly the same descriptor for every place: check that the checkpoint is a trained one "
        "(an untrained CLIP ResNet collapses like this)",
    )


def _unit_norm() -> Limit:
    return Limit(
        "max_norm_error",
        "at most",
        1e-3,
        "largest deviation of a descriptor's norm from 1",
        "the graph must end in an L2 norm computed in FP32; export the checkpoint again",
    )


def _loss(mean: float, worst: float, remedy: str) -> tuple[Limit, Limit]:
    what = "of the distance between different places that is lost"
    return (
        Limit("interplace_loss_mean", "at most", mean, f"share {what}, mean over the images", remedy),
        Limit("interplace_loss_max", "at most", worst, f"share {what}, worst image", remedy),
    )


def _recall(drop: float, remedy: str) -> Limit:
    return Limit("recall_at_1_drop", "at most", drop, "recall@1 lost against FP32", remedy)


_FP32_REMEDY = "the ONNX graph does not compute what the checkpoint does: try the other --opset (17 or 18)"
_FP16_REMEDY = (
    "half precision overflows or loses too much: give --calibration images like those that the robot will see, so that "
    "the range audit keeps more nodes in FP32, or export without --fp16"
)
_INT8_REMEDY = (
    "calibrate with more images of the robot's own camera (at least 500, of many places) and judge on such (--images), "
    "or export with --fp16 instead"
)

LIMITS: dict[Precision, tuple[Limit, ...]] = {
    "fp32": (
        _collapse(),
        _unit_norm(),
        Limit("min_cosine", "at least", 1.0 - 1e-5, "smallest cosine to the checkpoint's descriptor", _FP32_REMEDY),
    ),
    "fp16": (_collapse(), *_loss(0.02, 0.10, _FP16_REMEDY), _recall(0.0, _FP16_REMEDY), _unit_norm()),
    "int8": (_collapse(), *_loss(0.15, 1.0, _INT8_REMEDY), _recall(0.01, _INT8_REMEDY), _unit_norm()),
}
"""Per precision, in the order in which they are judged: a collapsed model is named as such before its losses are, and a
precision that gives NaN is blamed before the norm is."""


def measure(
    reference: NDArray[np.float32],
    other: NDArray[np.float32],
    *,
    different_places: NDArray[np.bool_],
    is_query: NDArray[np.bool_],
    same_place: NDArray[np.bool_],
) -> dict[str, float]:
    """Every figure that `LIMITS` judges, and those that explain them.

    Args:
        reference: (N, D) FP32 descriptors of the probe images.
        other: (N, D) descriptors of the same images by the graph in question.
        different_places: (N, N), True where two images show different places.
        is_query: (N,), True for the images that are queries; the others are the database.
        same_place: (N, N), True where two images show the same place.

    Returns:
        mean_cosine_between_places, min_cosine, mean_cosine, max_norm_error, interplace_loss_mean, interplace_loss_max,
        recall_at_1, recall_at_1_fp32, recall_at_1_drop. NaN where a descriptor is not finite.

    Raises:
        InputError: shapes that do not fit, no two different places, or no query with a match.
    """
    cosine = cosines(reference, other)
    loss = interplace_loss(reference, other, different_places)
    pairs = same_place[is_query][:, ~is_query]
    before = recall_at_1(reference[is_query], reference[~is_query], pairs)
    after = recall_at_1(other[is_query], other[~is_query], pairs)
    return {
        "mean_cosine_between_places": loss.mean_cosine_between_places,
        "min_cosine": float(cosine.min()),
        "mean_cosine": float(cosine.mean()),
        "max_norm_error": _max_norm_error(other),
        "interplace_loss_mean": loss.mean,
        "interplace_loss_max": loss.max,
        "recall_at_1": after,
        "recall_at_1_fp32": before,
        "recall_at_1_drop": before - after,
    }


def check(figures: Mapping[str, float], limits: Sequence[Limit], *, graph: str = "the graph") -> None:
    """Fail unless every limit holds.

    Args:
        figures: Name to value, from `measure`.
        limits: Usually `LIMITS[precision]`.
        graph: What is judged, named in the message ("the FP16 graph").

    Raises:
        ExportError: a figure is missing.
        GateError: a limit is broken, or its figure is NaN; it names figure, value, limit and remedy.
    """
    for limit in limits:
        if limit.figure not in figures:
            raise ExportError(
                f"{graph} was not measured: {limit.figure} is missing; a gate that did not run has failed"
            )
        value = figures[limit.figure]
        if not limit.allows(value):
            why = " (a descriptor is NaN, infinite or zero)" if np.isnan(value) else ""
            raise GateError(
                f"{graph} is refused: {limit.figure} ({limit.meaning}) is {value:.7g}{why}, the limit is "
                f"{limit.side} {limit.bound:.7g}; {limit.remedy}",
                figures,
            )


def tolerances(limits: Sequence[Limit]) -> dict[str, float]:
    """Figure to bound, as the manifest records them. `min_...` figures are lower limits, all others upper ones."""
    return {limit.figure: limit.bound for limit in limits}


def _max_norm_error(rows: NDArray[np.float32]) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.max(np.abs(np.linalg.norm(rows.astype(np.float64), axis=1) - 1.0)))
