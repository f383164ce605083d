"""Images through a loaded graph, whichever backend computes it: preprocessing, batches, checks of what comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.encoders.descriptor_rows import unit_rows
from progeo_edge.errors import ModelError
from progeo_edge.graph_file import Graph
from progeo_edge.preprocess import to_model_input
from progeo_edge.types import Image

Infer = Callable[[NDArray[Any]], NDArray[Any]]
"""(N, ...) graph input to (N, D) output. Safe to call from several threads; raises whatever the backend raises."""


class GraphRunner:
    """Images to rows by a graph. Safe to call from several threads.

    One image of noise is encoded at once, so that a graph that cannot work is refused now and not at the first frame.

    Args:
        graph: What it is and how it is fed.
        infer: Computes it.
        batch: Rows that the graph takes at once.
        fixed: Whether it takes no fewer; the last row is then repeated.

    Attributes:
        dimension: Length D of a row.

    Raises:
        ModelError: the graph fails, or gives NaN, a zero vector or another shape.
    """

    def __init__(self, graph: Graph, infer: Infer, *, batch: int, fixed: bool) -> None:
        self._graph, self._batch, self._fixed = graph, batch, fixed
        self._infer: Infer | None = infer
        self.dimension = self._probe(graph.dimension)

    def encode(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(N, D) float32 unit rows of N images.

        Raises:
            InputError: an image of another shape or type.
            ModelError: the graph fails, or gives NaN, a zero vector or another shape; it was closed.
        """
        return self._rows(images, lambda output: unit_rows(output, self._graph.path))

    def raw(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """As `encode`, but what the graph gives as it is: neither checked nor scaled, so it may hold NaN."""
        return self._rows(images, lambda output: output)

    def close(self) -> None:
        """Let the graph go; the others raise afterwards."""
        self._infer = None

    def _rows(self, images: Sequence[Image], finish: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[np.float32]:
        rows = np.empty((len(images), self.dimension), dtype=np.float32)
        for start in range(0, len(images), self._batch):
            batch = to_model_input(images[start : start + self._batch], self._graph.preprocess)
            rows[start : start + len(batch)] = finish(self._run(batch, self.dimension))
        return rows

    def _probe(self, stated: int | None) -> int:
        spec = self._graph.preprocess
        noise = np.random.default_rng(0).integers(0, 256, (spec.height_px, spec.width_px, 3), dtype=np.uint8)
        output = self._run(to_model_input([noise], spec), stated)
        return int(unit_rows(output, self._graph.path).shape[1])

    def _run(self, batch: NDArray[Any], dimension: int | None) -> NDArray[Any]:
        path, infer = self._graph.path, self._infer
        if infer is None:
            raise ModelError(f"encoder of {path} was closed; open it again with load_encoder")
        count = len(batch)
        if self._fixed and count < self._batch:
            batch = np.concatenate([batch, np.repeat(batch[-1:], self._batch - count, axis=0)])
        try:
            output = np.asarray(infer(batch))
        except Exception as error:  # backends raise classes of their own, which share only this base
            raise ModelError(
                f"model {path} failed on a batch of shape {batch.shape}: {first_line(error)}; "
                "check width_px, height_px and layout, or export it with a dynamic (or fixed) batch"
            ) from error
        if output.ndim != 2 or len(output) != len(batch) or (dimension is not None and output.shape[1] != dimension):
            raise ModelError(
                f"model {path} gave shape {output.shape} for {len(batch)} images; expected "
                f"({len(batch)}, {dimension or 'D'}): check the output's name, the dimension and the batch axis"
            )
        return output[:count]


def first_line(error: Exception) -> str:
    """What a backend's exception says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
