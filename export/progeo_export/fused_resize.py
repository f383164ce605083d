"""The runtime's resize inside a graph, for the frames of one camera."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from progeo_edge.shrinking import Plan, plan
from progeo_export.resize_matrices import area_matrix, cubic_matrix

Matrix = NDArray[np.float32]

_ROW_AXIS, _COLUMN_AXIS = 2, 3


class FusedResize(nn.Module):
    """The CPU's "area_or_cubic" resize for one frame size: first shrink the axes that shrink, then grow the others.

    Rounds to whole pixels wherever `progeo_edge.shrinking` does, so that a fixed camera's descriptors match a map made
    without it.

    Args:
        source_px: Height and width of the frames.
        target_px: Height and width wanted.
    """

    def __init__(self, source_px: tuple[int, int], target_px: tuple[int, int]) -> None:
        super().__init__()
        smaller_px = (min(source_px[0], target_px[0]), min(source_px[1], target_px[1]))
        down, across = plan(source_px[0], smaller_px[0]), plan(source_px[1], smaller_px[1])
        halved_px = (_length(down, smaller_px[0]), _length(across, smaller_px[1]))
        steps = [
            _averaged(source_px, (source_px[0] if down else smaller_px[0], source_px[1] if across else smaller_px[1])),
            *_halvings(down, across),
            Mix(down, across) if down or across else None,
            _sampled(halved_px, smaller_px),
            _sampled(smaller_px, target_px),
        ]
        self.steps = nn.Sequential(*[step for step in steps if step is not None])

    def forward(self, planes: Tensor) -> Tensor:
        """(N, 3, h, w) values of 0 to 255 to (N, 3, H, W) whole values of 0 to 255."""
        resized: Tensor = self.steps(planes)
        return resized


class AxisProducts(nn.Module):
    """rows @ planes @ columns.T, in the order that costs less, as whole pixels.

    Args:
        rows: (H, h), or None to leave the height.
        columns: (W, w), or None to leave the width.
    """

    rows: Tensor | None
    columns: Tensor | None

    def __init__(self, rows: Matrix | None, columns: Matrix | None) -> None:
        super().__init__()
        self.register_buffer("rows", None if rows is None else torch.from_numpy(rows))
        self.register_buffer("columns", None if columns is None else torch.from_numpy(columns.T.copy()))
        self.rows_first = rows is not None and columns is not None and _rows_cost_less(rows.shape, columns.shape)

    def forward(self, planes: Tensor) -> Tensor:
        """(N, 3, h, w) to (N, 3, H, W)."""
        if self.rows is not None and self.rows_first:
            planes = torch.matmul(self.rows, planes)
        if self.columns is not None:
            planes = torch.matmul(planes, self.columns)
        if self.rows is not None and not self.rows_first:
            planes = torch.matmul(self.rows, planes)
        # The cubic kernel overshoots at edges.
        return planes.round().clamp(0.0, 255.0)


class Halve(nn.Module):
    """Means of two or four pixels, halves rounded up, as OpenCV does.

    Args:
        axes: Of the height, the width, or both; their lengths are even.
    """

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, planes: Tensor) -> Tensor:
        """(N, 3, h, w) to half of it."""
        for axis in self.axes:
            planes = _every_second(planes, axis, 0) + _every_second(planes, axis, 1)
        return torch.floor(planes * 0.5 ** len(self.axes) + 0.5)


class Mix(nn.Module):
    """Give each neighbour its share, along both axes.

    Args:
        down: Of the height; None leaves it.
        across: Of the width; None leaves it.
    """

    def __init__(self, down: Plan | None, across: Plan | None) -> None:
        super().__init__()
        sides = ((_ROW_AXIS, down), (_COLUMN_AXIS, across))
        # Whole steps of 1/256 as in OpenCV, and one rounding for both axes. Known lengths keep the graph free of shapes
        # that it would compute.
        self.neighbours = [(axis, side.length_px, side.neighbour / 256.0) for axis, side in sides if side is not None]

    def forward(self, planes: Tensor) -> Tensor:
        """(N, 3, h, w) to the same."""
        for axis, length, share in self.neighbours:
            before = torch.cat([planes.narrow(axis, 0, 1), planes.narrow(axis, 0, length - 1)], dim=axis)
            after = torch.cat([planes.narrow(axis, 1, length - 1), planes.narrow(axis, length - 1, 1)], dim=axis)
            planes = planes * (1.0 - 2.0 * share) + (before + after) * share
        return torch.floor(planes + 0.5)


def _length(side: Plan | None, smaller_px: int) -> int:
    return smaller_px if side is None else side.length_px


def _averaged(source_px: tuple[int, int], target_px: tuple[int, int]) -> AxisProducts | None:
    if source_px == target_px:
        return None
    rows, columns = (area_matrix(s, t) if t < s else None for s, t in zip(source_px, target_px, strict=True))
    return AxisProducts(rows, columns)


def _halvings(down: Plan | None, across: Plan | None) -> list[Halve]:
    rows, columns = (0 if side is None else side.halvings for side in (down, across))
    both = min(rows, columns)
    rest = [Halve((_ROW_AXIS if rows > columns else _COLUMN_AXIS,))] * (max(rows, columns) - both)
    return [Halve((_ROW_AXIS, _COLUMN_AXIS))] * both + rest


def _sampled(source_px: tuple[int, int], target_px: tuple[int, int]) -> AxisProducts | None:
    if source_px == target_px:
        return None
    rows, columns = (cubic_matrix(s, t) if t != s else None for s, t in zip(source_px, target_px, strict=True))
    return AxisProducts(rows, columns)


def _every_second(planes: Tensor, axis: int, first: int) -> Tensor:
    return planes[:, :, first::2] if axis == _ROW_AXIS else planes[:, :, :, first::2]


def _rows_cost_less(rows: tuple[int, ...], columns: tuple[int, ...]) -> bool:
    (tall, h), (wide, w) = rows, columns
    return tall * h * w + tall * w * wide < h * w * wide + tall * h * wide
