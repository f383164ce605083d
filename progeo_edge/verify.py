"""Prove a bundle on this device: run its golden images through a backend and compare with what was exported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.bundle import MANIFEST_NAME, Manifest, Precision, read_manifest
from progeo_edge.encoders.backends import Backend, active_backend, check_choice, open_model
from progeo_edge.encoders.descriptor_rows import DescriptorError
from progeo_edge.encoders.golden import Golden, GoldenError, accuracy_limits, measure_golden, read_golden
from progeo_edge.encoders.onnx import OnnxEncoder
from progeo_edge.encoders.openvino import OpenVinoEncoder
from progeo_edge.encoders.tensorrt import TensorRTEncoder
from progeo_edge.errors import ModelError
from progeo_edge.graph_file import check_file

FIGURES: dict[str, str] = {
    "min_cosine": "smallest cosine between a descriptor and the stored one",
    "interplace_loss_mean": "share of the distance between places that is lost, mean over the images",
    "interplace_loss_max": "share of the distance between places that is lost, worst image",
    "max_abs_difference": "largest difference of one value",
    "rank_changes": "images whose neighbours come in another order than stored",
    "max_norm_error": "largest deviation of a descriptor's norm from 1",
    "nan_count": "values that are NaN or infinite",
}
"""Name to meaning of what a verification measures, in the order in which it is shown."""

_ALWAYS = {"rank_changes": 0.0, "nan_count": 0.0, "max_norm_error": 1e-3}
"""Limits where the manifest states none."""

_TIES: dict[Precision, float] = {"fp32": 0.002, "fp16": 0.02, "int8": 0.15}
"""Neighbours count as equally near when their cosines differ by less than this share of the mean distance between
places. For FP16 and INT8 it is the share that the exporter allows to be lost."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value and its limit.

    Attributes:
        name: Key of `FIGURES`; as in the manifest's `tolerances` where it is stated there.
        value: What was measured; NaN where a descriptor is not finite.
        bound: The limit; None when this figure is only told.
    """

    name: str
    value: float
    bound: float | None

    @property
    def side(self) -> str:
        """Which side of the bound is allowed: "at least" or "at most"."""
        return "at least" if self.name.startswith("min_") else "at most"

    @property
    def ok(self) -> bool:
        """Whether the limit is kept; False for NaN when there is a limit."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.side == "at least" else self.value <= self.bound


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification found.

    Attributes:
        bundle: Its folder.
        model: Name of the model.
        num_files: Files that the manifest lists.
        num_images: Golden images.
        backend: What really computed; None when it did not come to that.
        precision: Of the graph or engine that ran; None when it did not come to that.
        figures: What was measured, in the order of `FIGURES`; empty when nothing could be.
        problems: One sentence for everything that is wrong; empty when the bundle is proven on this device.
    """

    bundle: Path
    model: str
    num_files: int
    num_images: int
    backend: str | None
    precision: Precision | None
    figures: tuple[Figure, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything agrees."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; a value that is NaN becomes null."""
        return {
            "bundle": str(self.bundle),
            "model": self.model,
            "ok": self.ok,
            "backend": self.backend,
            "precision": self.precision,
            "num_files": self.num_files,
            "num_images": self.num_images,
            "figures": {
                figure.name: {
                    "value": figure.value if math.isfinite(figure.value) else None,
                    figure.side.replace(" ", "_"): figure.bound,
                    "ok": figure.ok,
                }
                for figure in self.figures
            },
            "problems": list(self.problems),
        }


def verify_bundle(path: str | Path, *, backend: Backend = "auto", precision: Precision | None = None) -> Verdict:
    """Compare every file of a bundle with its hash, then what a backend of this device gives with what is stored.

    Args:
        path: Bundle folder. A graph whose file was altered is never run.
        backend: As in `load_encoder`; "tensorrt" builds the engine when there is none, which takes minutes.
        precision: As in `load_encoder`.

    Raises:
        ModelError: it cannot be verified: no bundle, no golden images, a backend or precision that is not there.
    """
    check_choice(backend, precision)
    folder = Path(path)
    manifest = _read_verifiable(folder)
    problems = tuple(_check_files(folder, manifest))
    if problems:
        return _verdict(folder, manifest, problems=problems)
    golden = read_golden(folder, manifest)
    try:
        encoder = open_model(folder, backend, precision)
    except (GoldenError, DescriptorError) as error:
        return _verdict(folder, manifest, golden, problems=(str(error),))
    try:
        return _run(folder, manifest, golden, encoder)
    finally:
        encoder.close()


def count_rank_changes(reference: NDArray[np.float32], found: NDArray[np.float32], tie: float) -> int:
    """Images whose neighbours among the others come in another order.

    Args:
        reference: (N, D) stored unit rows.
        found: (N, D) rows of the backend that is judged.
        tie: Neighbours whose stored cosines differ by at most this may change places.
    """
    stored, now = _cosines(reference), _cosines(found)
    changed = 0
    for image in range(len(stored)):
        others = np.arange(len(stored)) != image
        before, after = stored[image, others], now[image, others]
        nearer = before[:, None] - before[None, :] > tie
        kept = after[:, None] >= after[None, :]  # False where one is NaN
        changed += bool((nearer & ~kept).any() or not np.isfinite(after).all())
    return changed


def _read_verifiable(folder: Path) -> Manifest:
    if not folder.is_dir():
        raise ModelError(
            f"model {folder} is no bundle folder, so it has no golden images to compare with; make one with "
            "progeo-export"
        )
    if not (folder / MANIFEST_NAME).is_file():
        raise ModelError(f"folder {folder} has no {MANIFEST_NAME}, so it is no bundle; make one with progeo-export")
    manifest = read_manifest(folder)
    if manifest.golden is None:
        raise ModelError(f"bundle {folder} has no golden images to compare with; export it again with progeo-export")
    return manifest


def _check_files(folder: Path, manifest: Manifest) -> list[str]:
    """One sentence for every file that is missing or not what was exported."""
    problems = []
    for name, sha256 in sorted(manifest.files.items()):
        try:
            check_file(folder, name, sha256)
        except ModelError as error:
            problems.append(str(error))
    return problems


AnyEncoder = OnnxEncoder | OpenVinoEncoder | TensorRTEncoder


def _run(folder: Path, manifest: Manifest, golden: Golden, encoder: AnyEncoder) -> Verdict:
    precision = encoder.precision
    assert precision is not None, "only a foreign model has none"
    figures = _judge(_measure(golden, encoder, precision), manifest, precision)
    problems = tuple(_sentence(figure) for figure in figures if not figure.ok)
    return _verdict(folder, manifest, golden, active_backend(encoder), precision, figures, problems)


def _measure(golden: Golden, encoder: AnyEncoder, precision: Precision) -> dict[str, float]:
    found = encoder.raw_descriptors(list(golden.images))
    stored = _cosines(golden.descriptors)
    distance = 1.0 - float(stored[~np.eye(len(stored), dtype=bool)].mean())
    with np.errstate(invalid="ignore"):
        difference = float(np.max(np.abs(golden.descriptors.astype(np.float64) - found)))
    return {
        **measure_golden(golden.descriptors, found),
        "max_abs_difference": difference,
        "nan_count": float(np.count_nonzero(~np.isfinite(found))),
        "rank_changes": float(count_rank_changes(golden.descriptors, found, _TIES[precision] * distance)),
    }


def _judge(values: Mapping[str, float], manifest: Manifest, precision: Precision) -> tuple[Figure, ...]:
    bounds = {**_ALWAYS, **accuracy_limits(manifest, precision)}
    return tuple(Figure(name, values[name], bounds.get(name)) for name in FIGURES)


def _sentence(figure: Figure) -> str:
    return (
        f"{figure.name} ({FIGURES[figure.name]}) is {figure.value:.7g}, the limit is {figure.side} {figure.bound:.7g}"
    )


def _cosines(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, N) cosines between rows; NaN where one is not finite or zero."""
    values = rows.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        unit = values / np.linalg.norm(values, axis=1, keepdims=True)
        return np.asarray(unit @ unit.T)


def _verdict(
    folder: Path,
    manifest: Manifest,
    golden: Golden | None = None,
    backend: str | None = None,
    precision: Precision | None = None,
    figures: tuple[Figure, ...] = (),
    problems: tuple[str, ...] = (),
) -> Verdict:
    count = len(golden.images) if golden is not None else 0
    return Verdict(folder, manifest.name, len(manifest.files), count, backend, precision, figures, problems)
