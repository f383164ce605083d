"""The golden run: a bundle carries images and their descriptors, and a backend that disagrees is not used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.bundle import Manifest, Precision
from progeo_edge.errors import ModelError
from progeo_edge.graph_file import check_file

DEFAULT_TOLERANCES: dict[Precision, dict[str, float]] = {
    "fp32": {"min_cosine": 0.9999},
    "fp16": {"interplace_loss_mean": 0.02, "interplace_loss_max": 0.10},
    "int8": {"interplace_loss_mean": 0.15, "interplace_loss_max": 0.50},
}
"""Used for a precision whose limits in the manifest say nothing of `ACCURACY`."""

ACCURACY = ("min_cosine", "interplace_loss_mean", "interplace_loss_max")
"""Figures without a limit on one of which wrong descriptors would pass."""


class GoldenError(ModelError):
    """A backend runs, but does not give the golden descriptors."""


_AT_LEAST = "min_"
"""Figures of this prefix are lower limits, all others upper ones."""


@dataclass(frozen=True, slots=True)
class Golden:
    """Golden images of a bundle and what the FP32 model made of them.

    Attributes:
        images: (N, height_px, width_px, 3) uint8 BGR, of the graph's size.
        descriptors: (N, D) float32 unit rows.
    """

    images: NDArray[np.uint8]
    descriptors: NDArray[np.float32]


def read_golden(folder: Path, manifest: Manifest) -> Golden:
    """Read the golden file after comparing its content with the manifest; nothing in it can run code.

    Raises:
        ModelError: the bundle has none, or it is altered, damaged or of other shapes.
    """
    if manifest.golden is None:
        raise ModelError(
            f"bundle {folder} has no golden images, so an engine could not be checked; export it again with "
            "progeo-export, or use ONNX Runtime"
        )
    path = check_file(folder, manifest.golden, manifest.files[manifest.golden])
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, descriptors = arrays["images"], arrays["descriptors"]
    except Exception as error:  # numpy, zipfile and zlib each raise their own on damaged files
        raise ModelError(f"golden images {path} cannot be read: {error}; export the bundle again") from error
    _check_shapes(images, descriptors, manifest, path)
    return Golden(images, descriptors)


def _check_shapes(images: NDArray[Any], descriptors: NDArray[Any], manifest: Manifest, path: Path) -> None:
    spec = manifest.preprocess
    expected = (len(descriptors), spec.height_px, spec.width_px, 3)
    shapes_fit = images.shape == expected and descriptors.shape == (len(images), manifest.dimension)
    if not shapes_fit or images.dtype != np.uint8 or descriptors.dtype != np.float32:
        raise ModelError(
            f"golden images {path} hold {images.shape} {images.dtype} and {descriptors.shape} {descriptors.dtype}; "
            f"expected (N, {', '.join(map(str, expected[1:]))}) uint8 and (N, {manifest.dimension}) float32"
        )
    if len(images) < 2:
        raise ModelError(
            f"golden images {path} are {len(images)}, two are needed for a distance between places; export the bundle "
            "again"
        )


def measure_golden(reference: NDArray[np.float32], found: NDArray[np.float32]) -> dict[str, float]:
    """Compare descriptors of the golden images with those in the bundle.

    Args:
        reference: (N, D) float32 unit rows of the FP32 model, N at least 2.
        found: (M, D) float32 of the backend that is judged for the first M of them, unit rows or NaN; M at least 1.

    Returns:
        min_cosine, max_norm_error, interplace_loss_mean and interplace_loss_max: (1 - cosine) / (1 - mean cosine
        between the golden images), the share of the distance between places that is lost. NaN where a descriptor is
        not finite.
    """
    exact, other = reference.astype(np.float64), found.astype(np.float64)
    between = (exact @ exact.T)[~np.eye(len(exact), dtype=bool)].mean()
    exact = exact[: len(other)]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        norms = np.linalg.norm(other, axis=1)
        cosines = np.sum(exact * other, axis=1) / (norms * np.linalg.norm(exact, axis=1))
        losses = (1.0 - cosines) / max(1.0 - between, 1e-12)
        return {
            "min_cosine": float(np.min(cosines)),
            "max_norm_error": float(np.max(np.abs(norms - 1.0))),
            "interplace_loss_mean": float(losses.mean()),
            "interplace_loss_max": float(losses.max()),
        }


def accuracy_limits(manifest: Manifest, precision: Precision) -> dict[str, float]:
    """The manifest's limits of a precision; `DEFAULT_TOLERANCES` with them where they leave accuracy open."""
    stated = manifest.tolerances.get(precision, {})
    return dict(stated) if any(name in stated for name in ACCURACY) else {**DEFAULT_TOLERANCES[precision], **stated}


def find_disagreement(figures: dict[str, float], manifest: Manifest, precision: Precision) -> str | None:
    """The limits that figures of a golden run break, in one sentence; None when they keep them all."""
    broken = []
    for name, bound in accuracy_limits(manifest, precision).items():
        if name not in figures:
            continue  # of the export alone, such as recall
        at_least = name.startswith(_AT_LEAST)
        if not (figures[name] >= bound if at_least else figures[name] <= bound):  # also when it is NaN
            side = "at least" if at_least else "at most"
            broken.append(f"{name} is {figures[name]:.6g}, the limit is {side} {bound:.6g}")
    return "; ".join(broken) or None


def run_golden(
    golden: Golden,
    manifest: Manifest,
    precision: Precision,
    encode: Callable[[list[NDArray[np.uint8]]], Any],
    count: int | None = None,
) -> dict[str, float]:
    """Run the golden images through `encode` and judge the result.

    Args:
        golden: Images, and what they must give.
        manifest: Has the limits.
        precision: Whose limits hold.
        encode: The backend.
        count: Run the first ones only; None for all.

    Returns:
        The figures of `measure_golden`.

    Raises:
        GoldenError: a limit is broken; the message names figure, value and limit.
    """
    figures = measure_golden(golden.descriptors, encode(list(golden.images[:count])))
    problem = find_disagreement(figures, manifest, precision)
    if problem is not None:
        raise GoldenError(f"it does not give the descriptors that the bundle was exported with: {problem}")
    return figures
