"""Means of what the steps report, without waiting for the device at every step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning_fabric import Fabric
from torch import Tensor


class StepMeans:
    """Sums scalars on the device; `take` gives their means over the steps and the processes and starts again."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def add(self, scalars: Mapping[str, Tensor]) -> None:
        """Count one step.

        Args:
            scalars: Detached scalars on the training device; the same names at every step.
        """
        for name, value in scalars.items():
            self._sums[name] = self._sums[name] + value.double() if name in self._sums else value.double()
        self._steps += 1

    def take(self, fabric: Fabric) -> dict[str, float]:
        """Means since the last call; every process must call it. Empty when no step was counted."""
        if not self._steps:
            return {}
        values = torch.stack(list(self._sums.values())) / self._steps
        if fabric.world_size > 1:
            reduced = fabric.all_reduce(values, reduce_op="mean")
            assert isinstance(reduced, Tensor)
            values = reduced
        names = list(self._sums)
        self._sums, self._steps = {}, 0
        return dict(zip(names, values.tolist(), strict=True))
