"""The default encoder: VLAD over dense RootSIFT; one shipped file of learned numbers, nothing to download.

Sources: dense upright SIFT aggregated for place recognition after Torii et al., "24/7 Place Recognition by View
Synthesis" (CVPR 2015); VLAD after Jegou et al., "Aggregating Local Descriptors into a Compact Image Representation"
(CVPR 2010); normalisation per word after Arandjelovic and Zisserman, "All about VLAD" (CVPR 2013); RootSIFT after the
same, "Three Things Everyone Should Know to Improve Object Retrieval" (CVPR 2012). docs/vlad.md gives the figures and
tells how to learn the file again.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from progeo_edge.bundle import ModelSpec
from progeo_edge.errors import ModelError
from progeo_edge.preprocess import check_image
from progeo_edge.types import Descriptor, Image

FloatArray = NDArray[np.float32]

SHIPPED_MODEL = Path(__file__).with_name("vlad64_512.npz")

WORKING_SIZE_PX = 240
BIN_SIZES_PX = (4, 7, 12)
BIN_OVERLAP_PX = (1, 2, 3)
GRID_STEP_PX = 6
MIN_MEAN_GRADIENT = 2.0
NUM_ORIENTATIONS = 8
LOCAL_DIMENSION = 4 * 4 * NUM_ORIENTATIONS
MAP_SCALES = np.array([1.0, 2.0**0.5] * 4, np.float32)
"""What one unit of each map of `gradient_maps` is worth, (8,) float32."""

_PREPROCESSING = {
    "working_size_px": WORKING_SIZE_PX,
    "resize": "area when shrinking, linear when enlarging",
    "bin_sizes_px": BIN_SIZES_PX,
    "bin_overlap_px": BIN_OVERLAP_PX,
    "grid_step_px": GRID_STEP_PX,
    "min_mean_gradient": MIN_MEAN_GRADIENT,
    "num_orientations": NUM_ORIENTATIONS,
}


@dataclass(frozen=True, slots=True, eq=False)
class VladModel:
    """What is learned: K words and an affine projection to D dimensions.

    Attributes:
        codebook: (K, 128) float32 words of RootSIFT space.
        projection: (D, K * 128) float16.
        offset: (D,) float32; descriptor = unit(projection @ vlad + offset).
    """

    codebook: FloatArray
    projection: NDArray[np.float16]
    offset: FloatArray


class VladEncoder:
    """Encoder "vlad64-512": an image of any size to a unit vector of 512 numbers; holds about 17 MB.

    An image without any gradient (blank wall, lens cap, one pixel) gets one fixed unit vector, so all such images have
    similarity 1 with each other; the detector refuses them before they come here.
    """

    def __init__(self, model: Path | None = None) -> None:
        """Load the learned file; None for the one that is shipped.

        Raises:
            ModelError: the file is missing, damaged or holds something else.
        """
        learned = load_model(SHIPPED_MODEL if model is None else Path(model))
        self._codebook = learned.codebook
        self._projection = learned.projection.astype(np.float32)
        self._offset = learned.offset
        dimension, num_words = len(learned.offset), len(learned.codebook)
        self._spec = ModelSpec(f"vlad{num_words}-{dimension}", dimension, fingerprint(learned))
        self._blas = ThreadpoolController()

    @property
    def spec(self) -> ModelSpec:
        """Identity of the model; stored in every map."""
        return self._spec

    def encode(self, images: Sequence[Image]) -> FloatArray:
        """N images, (H, W, 3) BGR or (H, W) grey uint8 of any size, to (N, D) float32 with unit rows.

        Raises:
            InputError: an image is not uint8, not of such a shape, or empty.
        """
        descriptors = np.empty((len(images), self._spec.dimension), np.float32)
        # These products are too small to share: beside other load, threads that wait for each other cost ten times
        # what they save (59 to 92 ms against 12 on two busy cores).
        with self._blas.limit(limits=1, user_api="blas"):
            for row, image in enumerate(images):
                descriptors[row] = self._encode_one(image)
        return descriptors

    def close(self) -> None:
        """Nothing to free."""

    def _encode_one(self, image: Image) -> Descriptor:
        local = dense_rootsift(working_image(image))
        if len(local) == 0:
            return _blank_descriptor(self._spec.dimension)
        # One product per image, also within a batch: a matrix product of several rounds differently.
        projected = self._projection @ aggregate(local, self._codebook) + self._offset
        norm = float(np.linalg.norm(projected))
        if norm < 1e-6:
            return _blank_descriptor(self._spec.dimension)
        return np.asarray(projected / norm, np.float32)


def working_image(image: Image) -> Image:
    """Image of any size to grey (h, w) uint8 whose longer side has 240 px, aspect kept.

    Raises:
        InputError: not uint8, not (H, W) or (H, W, 3), or empty.
    """
    return resize_to(to_grey(image), WORKING_SIZE_PX)


def to_grey(image: Image) -> Image:
    """(H, W, 3) BGR or (H, W) grey to (H, W) grey.

    Raises:
        InputError: not uint8, not of such a shape, or empty.
    """
    checked = check_image(image)
    return checked if checked.ndim == 2 else np.asarray(cv2.cvtColor(checked, cv2.COLOR_BGR2GRAY), np.uint8)


def resize_to(grey: Image, longer_side_px: int) -> Image:
    """Grey (H, W) to the given longer side, aspect kept, at least one pixel."""
    height, width = grey.shape
    scale = longer_side_px / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # Only area averaging keeps a shrunk image free of aliasing.
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(grey, size, interpolation=how), np.uint8)


def gradient_maps(grey: Image) -> list[Image]:
    """Split the gradient of a grey image over eight directions, 45 deg apart, starting at +x and turning to +y.

    Each gradient is written as a non-negative sum of the two directions that enclose it, which assigns it softly
    without an arc tangent. Values are central differences in whole grey levels; the odd (diagonal) maps stand for
    sqrt(2) times their value.

    Returns:
        Eight (H, W) uint8 maps.
    """
    padded = np.asarray(cv2.copyMakeBorder(grey, 1, 1, 1, 1, cv2.BORDER_REPLICATE), np.uint8)
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    above, below = padded[:-2, 1:-1], padded[2:, 1:-1]
    # Subtraction saturates at 0, which is what cuts a negative component off.
    east, west = cv2.subtract(right, left), cv2.subtract(left, right)
    south, north = cv2.subtract(below, above), cv2.subtract(above, below)
    along_x, along_y = cv2.max(east, west), cv2.max(south, north)
    maps = [
        cv2.subtract(east, along_y),
        cv2.min(east, south),
        cv2.subtract(south, along_x),
        cv2.min(west, south),
        cv2.subtract(west, along_y),
        cv2.min(west, north),
        cv2.subtract(north, along_x),
        cv2.min(east, north),
    ]
    return [np.asarray(one, np.uint8) for one in maps]


def dense_rootsift(grey: Image) -> FloatArray:
    """Upright SIFT-like descriptors on a regular grid at three scales.

    Args:
        grey: (h, w) uint8 working image.

    Returns:
        (N, 128) float32, unit norm, only where there is gradient; N may be 0.
    """
    integrals = np.asarray(cv2.merge([cv2.integral(one) for one in gradient_maps(grey)]), np.int32)
    scales = [
        _rootsift(_grid_histograms(integrals, bin_px, overlap_px), 16 * bin_px * bin_px)
        for bin_px, overlap_px in zip(BIN_SIZES_PX, BIN_OVERLAP_PX, strict=True)
    ]
    return np.concatenate(scales)


def aggregate(local: FloatArray, codebook: FloatArray) -> FloatArray:
    """VLAD: residuals to the nearest word, summed and normalised per word.

    Args:
        local: (N, 128) float32 RootSIFT.
        codebook: (K, 128) float32.

    Returns:
        (K * 128,) float32, unit norm; zero when N is 0.
    """
    nearest = np.argmax(local @ codebook.T - 0.5 * np.sum(codebook * codebook, axis=1), axis=1)
    membership = (nearest == np.arange(len(codebook))[:, None]).astype(np.float32)
    residuals = membership @ local - membership.sum(axis=1, keepdims=True) * codebook
    residuals /= np.maximum(np.linalg.norm(residuals, axis=1, keepdims=True), 1e-6)
    vlad = residuals.ravel()
    return np.asarray(vlad / max(float(np.linalg.norm(vlad)), 1e-6), np.float32)


def load_model(path: Path) -> VladModel:
    """Read and check a learned file; never runs code from it.

    Raises:
        ModelError: missing, damaged, or arrays of another shape, type or with values that are not finite.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            model = VladModel(archive["codebook"], archive["projection"], archive["offset"])
    except (
        OSError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
        MemoryError,
        SyntaxError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ModelError(
            f"VLAD model {path} cannot be read ({error}); reinstall progeo-edge or learn it with tools/learn_vlad.py"
        ) from error
    _check_model(model, path)
    return model


def fingerprint(model: VladModel) -> str:
    """sha256 (hex) over the arrays and everything of the preprocessing that changes a descriptor."""
    digest = hashlib.sha256(json.dumps(_PREPROCESSING, sort_keys=True).encode())
    for array in (model.codebook, model.projection, model.offset):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _check_model(model: VladModel, path: Path) -> None:
    num_words, dimension = model.codebook.shape[:1], model.offset.shape[:1]
    _check_array(path, "codebook", model.codebook, np.float32, (*num_words, LOCAL_DIMENSION))
    _check_array(path, "offset", model.offset, np.float32, dimension)
    _check_array(path, "projection", model.projection, np.float16, (*dimension, num_words[0] * LOCAL_DIMENSION))


def _check_array(path: Path, name: str, array: NDArray[Any], dtype: type[Any], shape: tuple[int, ...]) -> None:
    remedy = "reinstall progeo-edge or learn it with tools/learn_vlad.py"
    if array.dtype != dtype or array.shape != shape or array.size == 0:
        expected = f"{np.dtype(dtype)} {shape}"
        raise ModelError(f"VLAD model {path}: {name} is {array.dtype} {array.shape}, not {expected}; {remedy}")
    if not np.all(np.isfinite(array)):
        raise ModelError(f"VLAD model {path}: {name} holds NaN or infinity; {remedy}")


def _blank_descriptor(dimension: int) -> Descriptor:
    return np.full(dimension, dimension**-0.5, np.float32)


def _grid_histograms(integrals: NDArray[np.int32], bin_px: int, overlap_px: int) -> FloatArray:
    """Sums of the maps in 4 x 4 overlapping boxes around every grid point: (N, 128), order y, x, orientation."""
    top, bottom = _bin_edges(integrals.shape[0] - 1, bin_px, overlap_px)
    left, right = _bin_edges(integrals.shape[1] - 1, bin_px, overlap_px)
    rows = integrals[bottom.ravel()] - integrals[top.ravel()]
    boxes = rows[:, right.ravel()] - rows[:, left.ravel()]
    grid = boxes.reshape(len(top), 4, len(left), 4, NUM_ORIENTATIONS).transpose(0, 2, 1, 3, 4)
    histograms = np.asarray(grid, np.float32, order="C") * MAP_SCALES
    return histograms.reshape(-1, LOCAL_DIMENSION)


def _bin_edges(length_px: int, bin_px: int, overlap_px: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and last pixel edge, each (number of centres, 4), of the bins along one axis, clipped to the image."""
    reach = 2 * bin_px
    if length_px < 2 * reach:
        centres = np.arange(GRID_STEP_PX // 2, length_px + GRID_STEP_PX // 2, GRID_STEP_PX)
    else:
        centres = np.arange(reach, length_px - reach + 1, GRID_STEP_PX)
        centres += (length_px - reach - centres[-1]) // 2
    first = centres[:, None] + (np.arange(4) - 2) * bin_px
    return np.clip(first - overlap_px, 0, length_px), np.clip(first + bin_px + overlap_px, 0, length_px)


def _rootsift(histograms: FloatArray, area_px: int) -> FloatArray:
    totals = histograms.sum(axis=1, keepdims=True)
    textured = totals[:, 0] > MIN_MEAN_GRADIENT * area_px
    shares = histograms[textured] / totals[textured]
    return np.asarray(np.sqrt(shares, out=shares), np.float32)
