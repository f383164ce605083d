"""PCA whitening learned from the user's own frames, as a part of the model.

Descriptors of one environment often share most of their direction: a few axes hold what all its pictures have in
common. Whitening takes the mean away, keeps the strongest axes and divides each by its spread, shrunk towards the
strongest one so that weak axes do not become noise. (PCA whitening of image descriptors: Jegou and Chum, "Negative
Evidences and Co-occurences in Image Retrieval", ECCV 2012.) docs/whitening.md says when it helps.

The file is text, then numbers: a line with the format, a line with the sha256 of all that follows, a line of JSON, and
the mean and the projection as little-endian float32. Loading it never runs code.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from progeo_edge.atomic import write_bytes
from progeo_edge.bundle import ModelSpec
from progeo_edge.errors import InputError, ModelError
from progeo_edge.types import Image

if TYPE_CHECKING:
    from progeo_edge.encoders import Encoder

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]

MAX_DIMENSION = 512
FRAMES_PER_DIMENSION = 2
"""Fewer frames than this many per kept axis leave axes that are chance."""
ENOUGH_FRAMES = 5000
SHRINKAGE = 0.001
"""Share of the largest variance that is added to every axis; docs/whitening.md has the figures behind it."""

_FORMAT = b"progeo-whitening 1"
_MAX_HEADER_BYTES = 10_000
_MAX_WIDTH = 100_000


@dataclass(frozen=True, slots=True)
class WhiteningHeader:
    """What a whitening file says of itself.

    Attributes:
        model: Name of the model whose descriptors it whitens.
        inner_fingerprint: Fingerprint of that model.
        inner_dimension: Length D of its descriptors.
        dimension: Length K of the whitened ones.
        num_frames: Frames it was learned from.
        shrinkage: As in `fit_whitening`.
    """

    model: str
    inner_fingerprint: str
    inner_dimension: int
    dimension: int
    num_frames: int
    shrinkage: float


@dataclass(frozen=True, slots=True, eq=False)
class Whitening:
    """An affine projection; whitened = unit(projection @ (descriptor - mean)).

    Attributes:
        header: What it belongs to.
        mean: (D,) float32.
        projection: (K, D) float32.
    """

    header: WhiteningHeader
    mean: FloatArray
    projection: FloatArray

    def apply(self, descriptors: FloatArray) -> FloatArray:
        """(N, D) descriptors to (N, K) float32 with unit rows; the mean itself becomes one fixed unit vector."""
        projected = (descriptors - self.mean) @ self.projection.T
        norms = np.linalg.norm(projected, axis=1, keepdims=True)
        fixed = np.float32(self.header.dimension**-0.5)
        return np.asarray(np.where(norms > 1e-6, projected / np.maximum(norms, 1e-6), fixed), np.float32)

    def to_bytes(self) -> bytes:
        """The content of the file; the same numbers give the same bytes."""
        header = json.dumps(asdict(self.header), sort_keys=True).encode() + b"\n"
        body = header + self.mean.astype("<f4").tobytes() + self.projection.astype("<f4").tobytes()
        return b"\n".join([_FORMAT, hashlib.sha256(body).hexdigest().encode(), body])


class WhitenedEncoder:
    """An encoder and a whitening: another model, whose maps do not mix with those of the encoder alone."""

    def __init__(self, inner: Encoder, whitening: Whitening) -> None:
        """Args: inner: closed with this one. whitening: learned from its descriptors.

        Raises:
            ModelError: the whitening belongs to another model.
        """
        header = whitening.header
        if header.inner_fingerprint != inner.spec.fingerprint:
            raise ModelError(
                f"the whitening was learned for model {header.model} (fingerprint {header.inner_fingerprint[:12]}), "
                f"but the encoder is {inner.spec.name} ({inner.spec.fingerprint[:12]}); use that model, or learn it "
                "again with progeo-calibrate --whiten"
            )
        self._inner, self._whitening = inner, whitening
        fingerprint = hashlib.sha256(inner.spec.fingerprint.encode() + whitening.to_bytes()).hexdigest()
        self._spec = ModelSpec(f"{inner.spec.name}+white{header.dimension}", header.dimension, fingerprint)

    @property
    def spec(self) -> ModelSpec:
        """Identity of the two together."""
        return self._spec

    def encode(self, images: Sequence[Image]) -> FloatArray:
        """N images as the inner encoder takes them, to (N, K) float32 with unit rows."""
        return self._whitening.apply(self._inner.encode(images))

    def close(self) -> None:
        """Close the inner encoder."""
        self._inner.close()


def fit_whitening(
    descriptors: FloatArray, spec: ModelSpec, *, dimension: int | None = None, shrinkage: float = SHRINKAGE
) -> Whitening:
    """Learn a whitening.

    Args:
        descriptors: (N, D) of frames of the places where it will be used; they need no labels.
        spec: Of the encoder that made them.
        dimension: Axes to keep, at most 512 and at most D; None keeps half of D, at most 512. At full width the
            weakest axes are amplified, which was seen to cost recall.
        shrinkage: Every axis is divided by sqrt(variance + shrinkage * largest variance).

    Raises:
        InputError: not finite, of the wrong shape, all the same, or too few frames for so many axes.
    """
    found = np.asarray(descriptors)
    if found.ndim != 2 or found.shape[1] != spec.dimension or not np.all(np.isfinite(found)):
        raise InputError(f"descriptors are {found.dtype} {found.shape}; expected finite (N, {spec.dimension})")
    kept = min(MAX_DIMENSION, spec.dimension // 2) if dimension is None else dimension
    _check_sizes(len(found), spec.dimension, kept, shrinkage)
    mean = found.mean(axis=0, dtype=np.float64)
    centred = found - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / len(found))
    if variances[-1] < 1e-9:
        raise InputError(f"all {len(found)} descriptors are the same; give frames of different places")
    order = np.argsort(variances)[::-1][:kept]
    scales = 1.0 / np.sqrt(np.maximum(variances[order], 0.0) + shrinkage * variances[-1])
    # The sign of an eigenvector is arbitrary; a fixed one gives the same file on every machine that agrees on the rest.
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), range(len(axes))])
    projection = ((axes * signs)[:, order] * scales).T
    header = WhiteningHeader(spec.name, spec.fingerprint, spec.dimension, kept, len(found), float(shrinkage))
    return Whitening(header, mean.astype(np.float32), projection.astype(np.float32))


def save_whitening(path: str | Path, whitening: Whitening) -> None:
    """Write a whitening file atomically.

    Raises:
        ModelError: the folder is missing or cannot be written.
    """
    try:
        write_bytes(Path(path), whitening.to_bytes())
    except OSError as error:
        raise ModelError(f"whitening {path} cannot be written: {error}; choose another file") from error


def load_whitening(path: str | Path) -> Whitening:
    """Read and check a whitening file.

    Raises:
        ModelError: missing, altered, or something else.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"whitening {path} cannot be read: {error}; check the path") from error
    remedy = "take the file that progeo-calibrate --whiten wrote, or learn it again"
    form, _, rest = content.partition(b"\n")
    if form != _FORMAT:
        raise ModelError(f"{path} is no whitening file of this version (it begins with {form[:40]!r}); {remedy}")
    checksum, _, body = rest.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        raise ModelError(f"whitening {path} was altered or damaged: its sha256 does not match; {remedy}")
    try:
        return _parse(body)
    except (ValueError, TypeError) as error:
        raise ModelError(f"whitening {path} cannot be understood ({error}); {remedy}") from error


def _parse(body: bytes) -> Whitening:
    text, _, numbers = body.partition(b"\n")
    if len(text) > _MAX_HEADER_BYTES:
        raise ValueError(f"a header of {len(text)} bytes")
    header = WhiteningHeader(**json.loads(text))
    wide, kept = header.inner_dimension, header.dimension
    if not all(type(n) is int and 0 < n <= _MAX_WIDTH for n in (wide, kept)) or kept > wide:
        raise ValueError(f"{kept} axes of {wide}")
    if len(numbers) != 4 * wide * (kept + 1):
        raise ValueError(f"{len(numbers)} bytes of numbers for {kept} axes of {wide}")
    values = np.frombuffer(numbers, "<f4").astype(np.float32)
    if not np.all(np.isfinite(values)):
        raise ValueError("NaN or infinity among the numbers")
    return Whitening(header, values[:wide], cast(FloatArray, values[wide:].reshape(kept, wide)))


def _check_sizes(num_frames: int, wide: int, kept: int, shrinkage: float) -> None:
    if not 1 <= kept <= min(MAX_DIMENSION, wide):
        raise InputError(f"dimension {kept} of a whitening is not between 1 and {min(MAX_DIMENSION, wide)}; choose one")
    if not 0.0 <= shrinkage <= 1.0:
        raise InputError(f"shrinkage {shrinkage} is not between 0 and 1; {SHRINKAGE} is the default")
    if num_frames < FRAMES_PER_DIMENSION * kept:
        raise InputError(
            f"{num_frames} frames are too few to learn {kept} axes of a whitening; give at least "
            f"{FRAMES_PER_DIMENSION * kept}, better {ENOUGH_FRAMES}, or ask for fewer axes"
        )
    if num_frames < ENOUGH_FRAMES:
        logger.warning(
            "whitening learned from %d frames only; from %d on it can be relied on: compare it with the plain encoder "
            "on drives of yours before using it",
            num_frames,
            ENOUGH_FRAMES,
        )
