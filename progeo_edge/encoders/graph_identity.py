"""Which model a graph file is: its content, the tensors it keeps in other files, its output and its preprocessing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from progeo_edge.bundle import ModelSpec, Precision, read_manifest
from progeo_edge.encoders.onnx_scan import GraphScan, scan_graph
from progeo_edge.errors import ModelError
from progeo_edge.graph_file import Graph, check_file, file_sha256, inside, open_graph

_SHARED = "progeo-model-1"
"""Version of the rule by which precisions of one bundle share a fingerprint."""


@dataclass(frozen=True, slots=True)
class CheckedGraph:
    """A graph whose content, and that of every file it names, was compared with the hashes that are stated.

    Attributes:
        graph: The graph file.
        scan: What is in it.
        external: Hashes of the files that hold its tensors, in the order of their names.
    """

    graph: Graph
    scan: GraphScan
    external: tuple[str, ...]

    def spec(self, output_name: str, dimension: int) -> ModelSpec:
        """Identity of the model, whichever backend runs it.

        Args:
            output_name: Of the descriptor output.
            dimension: Length D of a descriptor.
        """
        return ModelSpec(self.graph.name, dimension, graph_fingerprint(self.graph, self.external, output_name))


def open_checked_graph(path: Path, precision: Precision | None = None) -> CheckedGraph:
    """Find one graph and check everything that a backend would read, without loading it.

    Args:
        path: As `open_graph`.
        precision: As `open_graph`.

    Raises:
        ModelError: as `open_graph` and `check_external_files`; or the file is no ONNX.
    """
    graph = open_graph(path, precision)
    scan = scan_graph(graph.path)
    return CheckedGraph(graph, scan, tuple(check_external_files(graph, scan)))


def check_external_files(graph: Graph, scan: GraphScan) -> list[str]:
    """Hashes of the files that hold the graph's tensors, in the order of their names.

    Raises:
        ModelError: such a file is missing, outside the folder, altered, or not in the manifest of a bundle.
    """
    hashes = []
    for name in sorted(scan.external_files):
        path = inside(graph.path.parent, name)
        hashes.append(file_sha256(path) if graph.files is None else _check_listed(graph, graph.files, path))
    return hashes


def _check_listed(graph: Graph, files: Mapping[str, str], path: Path) -> str:
    name = path.relative_to(graph.folder).as_posix()
    if name not in files:
        raise ModelError(f"model {graph.path} keeps tensors in {name!r}, which the manifest does not list")
    check_file(graph.folder, name, files[name])
    return files[name]


def graph_fingerprint(graph: Graph, external: Sequence[str], output_name: str) -> str:
    """sha256 (hex) over everything that changes a descriptor by more than rounding.

    The FP32 and the FP16 graph of a bundle share it: they compute one checkpoint, and the exporter has proven that
    their descriptors may be compared, so that a map of one machine fits another. An INT8 graph has its own, and so has
    a foreign one.
    """
    if graph.precision in ("fp32", "fp16"):
        weights = (_SHARED, *_shared_weights(graph, external), str(graph.dimension))
    else:
        weights = (*([graph.precision] if graph.precision else []), graph.sha256, *external)
    return hashlib.sha256("\n".join((*weights, output_name, graph.preprocess.hash)).encode()).hexdigest()


def _shared_weights(graph: Graph, external: Sequence[str]) -> tuple[str, ...]:
    """What stands for the weights in every exact precision: the checkpoint, else the FP32 graph with its tensors."""
    if graph.checkpoint_sha256 is not None:
        return (graph.checkpoint_sha256,)
    if graph.precision == "fp32" or "fp32" not in read_manifest(graph.folder).graphs:
        return (graph.sha256, *external)
    exact = open_checked_graph(graph.folder, "fp32")
    return (exact.graph.sha256, *exact.external)
