"""Whether the inputs and outputs that a backend finds in a graph are those that its description states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from progeo_edge.errors import ModelError
from progeo_edge.graph_file import Graph

_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output, as a backend tells of it.

    Attributes:
        name: Of the tensor.
        dtype: Name of the numpy type, or what the backend calls a type that numpy lacks.
        shape: Axes; a name or None for one of any length. None when the graph does not say.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


def check_input(inputs: Sequence[Port], graph: Graph) -> tuple[str, int | None]:
    """Name of the image input and its batch size, None when that is dynamic.

    Raises:
        ModelError: there is no such input, it has another type or shape than the description says, or it is not alone.
    """
    chosen = _pick(inputs, graph.input_name, "input", graph.path)
    others = [item.name for item in inputs if item.name != chosen.name]
    if others:
        raise ModelError(f"model {graph.path} also needs the inputs {', '.join(others)}; export it with the image only")
    spec = graph.preprocess
    if chosen.dtype != spec.dtype:
        raise ModelError(
            f"input {chosen.name!r} of {graph.path} takes {chosen.dtype}, but its description says {spec.dtype}"
        )
    expected = input_shape(graph)
    shape = list(chosen.shape or [])
    agrees = len(shape) == 4 and all(
        not isinstance(size, int) or size == want for size, want in zip(shape[1:], expected, strict=True)
    )
    if not agrees:
        raise ModelError(
            f"input {chosen.name!r} of {graph.path} has shape {shape}, but its description says "
            f"{spec.layout} ('batch', {', '.join(map(str, expected))})"
        )
    batch = shape[0]
    return chosen.name, batch if isinstance(batch, int) and batch > 0 else None


def check_output(outputs: Sequence[Port], graph: Graph) -> str:
    """Name of the descriptor output.

    Raises:
        ModelError: there is no such output, or it does not hold descriptors of the stated dimension.
    """
    chosen = _pick(outputs, graph.output_name, "output", graph.path)
    if chosen.dtype not in _FLOATS:
        raise ModelError(f"output {chosen.name!r} of {graph.path} is {chosen.dtype}; expected floats of shape (N, D)")
    shape = list(chosen.shape or [])
    stated = graph.dimension
    if shape and len(shape) != 2:
        raise ModelError(f"output {chosen.name!r} of {graph.path} has shape {shape}; expected descriptors (N, D)")
    if shape and stated is not None and isinstance(shape[1], int) and shape[1] != stated:
        raise ModelError(
            f"output {chosen.name!r} of {graph.path} has dimension {shape[1]}, but its description says {stated}"
        )
    return chosen.name


def input_shape(graph: Graph) -> tuple[int, int, int]:
    """Axes of the image input behind the batch, as the description states them."""
    height, width = graph.preprocess.height_px, graph.preprocess.width_px
    return (height, width, 3) if graph.preprocess.layout == "nhwc" else (3, height, width)


def _pick(items: Sequence[Port], name: str | None, what: str, path: Path) -> Port:
    names = [item.name for item in items]
    if name is None and len(items) == 1:
        return items[0]
    if name is None:
        raise ModelError(
            f"model {path} has {len(items)} {what}s ({', '.join(names)}); name one as '{what}:' in the yaml"
        )
    if name not in names:
        raise ModelError(f"model {path} has no {what} {name!r}; it has {', '.join(names)}")
    return items[names.index(name)]
