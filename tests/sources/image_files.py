"""Writes small images whose grey level tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from progeo_edge.types import Frame, Transform


def write_grey(path: Path, level: int, size: tuple[int, int] = (16, 12)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((size[1], size[0]), level, np.uint8))


def write_folder(folder: Path, names: Sequence[str], size: tuple[int, int] = (16, 12)) -> Path:
    """The image with index k has the grey level 10 + k."""
    for index, name in enumerate(names):
        write_grey(folder / name, 10 + index, size)
    return folder


def break_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30])


def level(image: np.ndarray | None) -> int:
    assert image is not None
    return int(image.reshape(-1)[0])


def pose(frame: Frame) -> Transform:
    assert frame.T_odom_base is not None
    return frame.T_odom_base
