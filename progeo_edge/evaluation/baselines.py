"""Two classical encoders to compare against. They are no part of the pipeline; both follow the `Encoder` protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import as_file, files

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.bundle import ModelSpec
from progeo_edge.errors import InputError
from progeo_edge.types import Image

THUMBNAIL_SIZE_PX = (64, 32)
PATCH_PX = 8

ORB_LONGER_SIDE_PX = 320
ORB_MAX_FEATURES = 1000
ORB_FAST_THRESHOLD = 7
ORB_EDGE_PX = 15


class ThumbnailEncoder:
    """A 64x32 grey thumbnail, each 8x8 patch brought to mean 0 and deviation 1, flattened to unit norm.

    The image comparison of SeqSLAM (Milford and Wyeth, ICRA 2012), with the cosine in place of the sum of absolute
    differences.
    """

    def __init__(self) -> None:
        width_px, height_px = THUMBNAIL_SIZE_PX
        identity = f"thumbnail {width_px}x{height_px} patch {PATCH_PX} area"
        self._spec = ModelSpec("thumbnail", width_px * height_px, _sha256(identity))

    @property
    def spec(self) -> ModelSpec:
        """Identity of the model."""
        return self._spec

    def encode(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """N images of any size to (N, 2048) float32 with unit rows."""
        descriptors = np.zeros((len(images), self._spec.dimension), np.float32)
        for row, image in enumerate(images):
            small = cv2.resize(_grey(image), THUMBNAIL_SIZE_PX, interpolation=cv2.INTER_AREA)
            descriptors[row] = _unit(_normalise_patches(small.astype(np.float32)).ravel())
        return descriptors

    def close(self) -> None:
        """Nothing is held."""


class OrbBowEncoder:
    """Bag of 4096 ORB words weighted by tf-idf, L2-normalised; what users of DBoW2 have.

    After Galvez-Lopez and Tardos, "Bags of Binary Words for Fast Place Recognition in Image Sequences", T-RO 2012,
    with a flat vocabulary (k-majority clustering, `tools/learn_orb_vocabulary.py`) in place of a tree. One more
    dimension stands for "no keypoint at all", so that rows have unit norm always.
    """

    def __init__(self) -> None:
        self._words, self._idf = load_orb_words()
        self._orb = make_orb()
        self._matcher = cv2.BFMatcher(cv2.NORM_HAMMING)
        settings = f"orb {ORB_LONGER_SIDE_PX} {ORB_MAX_FEATURES} {ORB_FAST_THRESHOLD} {ORB_EDGE_PX}"
        fingerprint = _sha256(settings, self._words.tobytes(), self._idf.tobytes())
        self._spec = ModelSpec("orb-bow", len(self._words) + 1, fingerprint)

    @property
    def spec(self) -> ModelSpec:
        """Identity of the model."""
        return self._spec

    def encode(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """N images of any size to (N, 4097) float32 with unit rows."""
        descriptors = np.zeros((len(images), self._spec.dimension), np.float32)
        for row, image in enumerate(images):
            words = assign_words(describe_orb(image, self._orb), self._words, self._matcher)
            counts = np.bincount(words, minlength=len(self._words)).astype(np.float32)
            weighted = counts * self._idf
            if weighted.any():
                descriptors[row, :-1] = _unit(weighted)
            else:
                descriptors[row, -1] = 1.0
        return descriptors

    def close(self) -> None:
        """Nothing is held."""


def make_orb() -> cv2.ORB:
    """The ORB detector of the vocabulary and of the encoder, which must be the same."""
    return cv2.ORB.create(nfeatures=ORB_MAX_FEATURES, fastThreshold=ORB_FAST_THRESHOLD, edgeThreshold=ORB_EDGE_PX)


def describe_orb(image: Image, orb: cv2.ORB) -> NDArray[np.uint8]:
    """ORB descriptors of an image brought to a longer side of 320 px: (N, 32) uint8, N may be 0."""
    grey = _grey(image)
    scale = ORB_LONGER_SIDE_PX / max(grey.shape)
    size_px = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    _, descriptors = orb.detectAndCompute(cv2.resize(grey, size_px, interpolation=interpolation), None)
    return np.zeros((0, 32), np.uint8) if descriptors is None else np.asarray(descriptors, np.uint8)


def assign_words(
    descriptors: NDArray[np.uint8], words: NDArray[np.uint8], matcher: cv2.BFMatcher | None = None
) -> NDArray[np.int64]:
    """Index of the word nearest in Hamming distance, for each of (N, 32) uint8 descriptors: (N,) int64."""
    if len(descriptors) == 0:
        return np.zeros(0, np.int64)
    matches = (matcher or cv2.BFMatcher(cv2.NORM_HAMMING)).match(descriptors, words)
    return np.array([match.trainIdx for match in matches], np.int64)


@cache
def load_orb_words() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The shipped vocabulary: (4096, 32) uint8 words and their (4096,) float32 inverse document frequencies."""
    with as_file(files("progeo_edge.evaluation") / "orb_words.npz") as path, np.load(path, allow_pickle=False) as data:
        return data["words"], data["idf"].astype(np.float32)


def _grey(image: Image) -> Image:
    if image.dtype != np.uint8 or image.size == 0 or image.ndim not in (2, 3):
        raise InputError(f"image of shape {image.shape}, {image.dtype}; expected (H, W) or (H, W, 3) uint8, not empty")
    if image.ndim == 2:
        return image
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)


def _normalise_patches(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    rows, columns = grey.shape[0] // PATCH_PX, grey.shape[1] // PATCH_PX
    patches = grey.reshape(rows, PATCH_PX, columns, PATCH_PX)
    mean = patches.mean(axis=(1, 3), keepdims=True)
    # One grey level of slack keeps the noise of flat patches from being blown up to full contrast.
    deviation = patches.std(axis=(1, 3), keepdims=True) + 1.0
    normalised: NDArray[np.float32] = ((patches - mean) / deviation).reshape(grey.shape)
    return normalised


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    norm = float(np.linalg.norm(vector))
    if norm == 0.0:
        return np.full(len(vector), 1.0 / np.sqrt(len(vector)), np.float32)
    return np.asarray(vector / norm, np.float32)


def _sha256(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()
