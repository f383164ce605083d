"""What all contenders are given: frames of exact sizes, and a database of descriptors, as .npy files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import InputError, SourceError
from progeo_edge.types import Image

PERTURBED_COSINE = 0.95
"""Mean cosine between a tiled descriptor and the one it was made of: about that of keyframes one after the other."""


@dataclass(frozen=True)
class Frames:
    """Frames for a comparison.

    Attributes:
        origin: Where they come from, for people.
        images: As they came, (H, W, 3) BGR uint8.
    """

    origin: str
    images: tuple[Image, ...]

    def of_size(self, width_px: int, height_px: int) -> NDArray[np.uint8]:
        """(N, height_px, width_px, 3), cut to the aspect at the centre and resized."""
        return np.stack([_to_size(image, width_px, height_px) for image in self.images])


@dataclass(frozen=True)
class Vectors:
    """Descriptors for a search.

    Attributes:
        name: In titles.
        rows: (N, D) float32, unit norm, in the order of insertion.
        queries: (Q, D) float32, unit norm.
        note: How they were made, one sentence.
    """

    name: str
    rows: NDArray[np.float32]
    queries: NDArray[np.float32]
    note: str


def rendered_frames(count: int) -> Frames:
    """A drive through the rendered street of the demo, every frame another place; a third of a second each."""
    from progeo_edge.world import StreetWorld, WorldSource, forward_camera, simulate_drive

    world = StreetWorld(0)
    drive = simulate_drive(world, 0, frame_rate_hz=2.5, max_frames=count)
    return Frames("rendered street", tuple(frame.image for frame in WorldSource(world, drive, forward_camera())))


def source_frames(path: Path, count: int) -> Frames:
    """Frames of a recording, spread over its length where that is known.

    Raises:
        SourceError: as `open_source`.
    """
    from progeo_edge.sources import open_source

    source = open_source(path)
    stride = max(1, (source.num_frames or 0) // count)
    images = tuple(as_bgr(frame.image) for frame in islice(source, 0, stride * count, stride))
    if not images:
        raise SourceError(f"source {path} gave no frame; name one with images")
    return Frames(f"{path.name}, {images[0].shape[1]}x{images[0].shape[0]}", images)


def as_bgr(image: Image) -> Image:
    """(H, W, 3) of an image in colour or grey."""
    return image if image.ndim == 3 else np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)


def read_descriptors(path: Path) -> NDArray[np.float32]:
    """(N, D) float32 unit rows of a .npy file, or of the array "descriptors" of an .npz file.

    Raises:
        InputError: missing, no such array, or rows that are not of unit norm.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"descriptors {path} cannot be read: {error}; name a .npy or .npz file") from error
    if isinstance(loaded, np.ndarray):
        rows = loaded
    elif "descriptors" in loaded.files:
        rows = loaded["descriptors"]
    else:
        raise InputError(f"{path} holds {', '.join(loaded.files)}; expected an array named descriptors")
    norms = np.linalg.norm(rows.astype(np.float64), axis=-1) if rows.ndim == 2 and len(rows) else np.zeros(1)
    if np.abs(norms - 1.0).max() > 1e-2:
        raise InputError(f"descriptors {path} have shape {rows.shape}; expected (N, D) rows of unit norm")
    return normalised(rows)


def random_vectors(count: int, dimension: int, num_queries: int, seed: int = 0) -> Vectors:
    """Unit vectors in all directions; queries are some of them, turned by about 25 degrees."""
    rng = np.random.default_rng(seed)
    rows = np.empty((count, dimension), np.float32)
    for first in range(0, count, 50_000):
        rows[first : first + 50_000] = normalised(
            rng.standard_normal((min(50_000, count - first), dimension), dtype=np.float32)
        )
    queries = perturbed(rows[rng.integers(count, size=num_queries)], 0.9, rng)
    return Vectors("random unit vectors", rows, queries, "queries: rows turned by about 25 degrees")


def real_vectors(name: str, descriptors: NDArray[np.float32], count: int, num_queries: int, seed: int = 0) -> Vectors:
    """Descriptors of images in their order, every so many held out as a query; too few are tiled and perturbed."""
    stride = max(2, len(descriptors) // num_queries)
    is_query = np.arange(len(descriptors)) % stride == stride // 2
    queries, kept = descriptors[is_query][:num_queries], descriptors[~is_query]
    held_out = "queries: descriptors held out of the same drive"
    if len(kept) >= count:
        return Vectors(name, np.ascontiguousarray(kept[:count]), queries, held_out)
    note = (
        f"{held_out}; {len(kept)} real descriptors were tiled to {count} and each copy perturbed to a mean cosine of "
        f"{PERTURBED_COSINE} to its original"
    )
    return Vectors(f"{name} (tiled)", tiled(kept, count, seed), queries, note)


def tiled(descriptors: NDArray[np.float32], count: int, seed: int = 0) -> NDArray[np.float32]:
    """(count, D): the descriptors in their order, again and again, each lap perturbed but the first."""
    # A stream of its own: noise of the stream that made random descriptors would only make them longer.
    rng = np.random.default_rng([seed, 1])
    rows = np.empty((count, descriptors.shape[1]), np.float32)
    for first in range(0, count, len(descriptors)):
        lap = descriptors[: count - first]
        rows[first : first + len(lap)] = lap if first == 0 else perturbed(lap, PERTURBED_COSINE, rng)
    return rows


def perturbed(rows: NDArray[np.float32], cosine: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Unit rows turned in random directions to about this cosine with what they were."""
    noise = rng.standard_normal(rows.shape, dtype=np.float32) / np.float32(np.sqrt(rows.shape[1]))
    return normalised(rows + noise * np.float32(np.sqrt(1.0 / cosine**2 - 1.0)))


def normalised(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows of unit norm, float32."""
    exact = np.asarray(rows, dtype=np.float32)
    return np.asarray(exact / np.linalg.norm(exact, axis=1, keepdims=True), dtype=np.float32)


def save(path: Path, array: NDArray[np.generic]) -> str:
    """Write a .npy file for the peers and give its name."""
    np.save(path, array, allow_pickle=False)
    return str(path)


def _to_size(image: Image, width_px: int, height_px: int) -> Image:
    height, width = image.shape[:2]
    scale = min(width / width_px, height / height_px)
    keep_width, keep_height = round(width_px * scale), round(height_px * scale)
    left, top = (width - keep_width) // 2, (height - keep_height) // 2
    cut = image[top : top + keep_height, left : left + keep_width]
    interpolation = cv2.INTER_AREA if scale >= 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(cut, (width_px, height_px), interpolation=interpolation), dtype=np.uint8)


def spread_of_places(descriptors: Iterable[NDArray[np.float32]]) -> float:
    """1 - mean cosine between different frames: what a difference between descriptors is measured against."""
    rows = np.asarray(list(descriptors), dtype=np.float64)
    cosines = rows @ rows.T
    others = ~np.eye(len(rows), dtype=bool)
    return float(1.0 - cosines[others].mean())
