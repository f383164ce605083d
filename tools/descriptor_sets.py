"""Descriptors to measure the search with: drives read from files, made denser on request, and random ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]

NAMES = ("descriptors", "D")
"""Arrays of an .npz file that may hold (N, D) descriptors in the order of the drive."""


def read_drives(paths: Sequence[Path]) -> list[Rows]:
    """One (N, D) array per .npz or .npy file; a folder stands for all such files in it. In the order of their names."""
    files = [file for path in paths for file in (sorted(path.glob("*.np[yz]")) if path.is_dir() else [path])]
    return [unit(_rows_of(file)) for file in files]


def _rows_of(file: Path) -> Rows:
    loaded = np.load(file, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded.astype(np.float32)
    names = [name for name in NAMES if name in loaded.files]
    if not names:
        raise SystemExit(f"{file} has the arrays {loaded.files}; expected one named {' or '.join(NAMES)}")
    return np.asarray(loaded[names[0]], dtype=np.float32)


def interpolated(drive: Rows, factor: int) -> Rows:
    """The drive with factor - 1 made-up descriptors between any two: normalised mixtures of its neighbours in time."""
    if factor == 1 or len(drive) < 2:
        return drive
    shares = np.arange(factor, dtype=np.float32)[:, None] / factor
    mixed = drive[:-1, None] * (1 - shares) + drive[1:, None] * shares
    return unit(np.concatenate([mixed.reshape(-1, drive.shape[1]), drive[-1:]]))


def of_size(drives: Sequence[Rows], count: int) -> Rows:
    """The first `count` rows of the drives one after the other, interpolated as often as that needs."""
    available = sum(len(drive) for drive in drives)
    factor = -(-count // available)
    return np.concatenate([interpolated(drive, factor) for drive in drives])[:count]


def random_rows(count: int, dimension: int, seed: int) -> Rows:
    """Independent directions, the hardest case: nothing is near, and no few dimensions matter more than others."""
    return unit(np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32))


def random_walk(count: int, dimension: int, seed: int, cosine: float = 0.987) -> Rows:
    """A drive past places that share nothing: consecutive rows have this cosine, distant ones about none."""
    rng = np.random.default_rng(seed)
    rows = np.empty((count, dimension), dtype=np.float32)
    length = np.sqrt(1 / cosine**2 - 1)
    state = unit(rng.standard_normal((1, dimension), dtype=np.float32))[0]
    for row in rows:
        step = rng.standard_normal(dimension, dtype=np.float32)
        step -= (step @ state) * state
        state = state + length * step / np.linalg.norm(step)
        state /= np.linalg.norm(state)
        row[:] = state
    return rows


def turned(rows: Rows, seed: int, cosine: float = 0.9) -> Rows:
    """Each row turned in a direction of its own until it has this cosine with itself."""
    noise = random_rows(len(rows), rows.shape[1], seed)
    noise -= np.sum(noise * rows, axis=1, keepdims=True) * rows
    return unit(cosine * rows + np.float32(np.sqrt(1 - cosine**2)) * unit(noise))


def unit(rows: Rows) -> Rows:
    """Rows divided by their norms."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)
