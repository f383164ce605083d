"""Which model a graph file is: its content, the tensors it keeps in other files, its output and its preprocessing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from progeo_edge.encoders.onnx_scan import GraphScan
from progeo_edge.errors import ModelError
from progeo_edge.graph_file import Graph, check_file, file_sha256, inside


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
    """sha256 (hex) over everything that changes a descriptor."""
    parts = (graph.sha256, *external, output_name, graph.preprocess.hash)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
