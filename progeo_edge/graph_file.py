"""From a path to one checked graph file: which .onnx, with which hash, fed how."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from progeo_edge.bundle import Manifest, Precision, Preprocess, read_foreign, read_manifest
from progeo_edge.errors import ModelError

PRECISION_PREFERENCE: tuple[Precision, ...] = ("fp32", "fp16", "int8")
"""FP32 first: a map made with it fits every machine, and on CPUs half precision is the slower one."""


@dataclass(frozen=True, slots=True)
class Graph:
    """One graph of a bundle, or a foreign one: what a backend needs to load and feed it.

    Attributes:
        path: The .onnx file; its content was compared with its hash.
        folder: The bundle, or the folder of a foreign model.
        sha256: Hash of that file.
        name: What a person calls the model.
        preprocess: Image to graph input.
        input_name: None when the graph must have one input.
        output_name: None when the graph must have one output.
        dimension: None when only the graph knows.
        files: sha256 that the manifest states per file; None for a foreign model.
        precision: Which graph of a bundle this is; None for a foreign model.
        checkpoint_sha256: What the bundle was exported from; None when that is not known.
    """

    path: Path
    folder: Path
    sha256: str
    name: str
    preprocess: Preprocess
    input_name: str | None = None
    output_name: str | None = None
    dimension: int | None = None
    files: Mapping[str, str] | None = field(default=None, hash=False)
    precision: Precision | None = None
    checkpoint_sha256: str | None = None


def open_graph(path: Path, precision: Precision | None = None) -> Graph:
    """Find one graph and check its content, without loading it.

    Args:
        path: Bundle folder, or an .onnx file beside its .yaml.
        precision: Which graph of a bundle; None takes the first of `PRECISION_PREFERENCE` that it holds.

    Raises:
        ModelError: nothing usable at `path`, a broken manifest or YAML, an altered file.
    """
    if path.is_dir():
        return _open_bundle_graph(path, read_manifest(path), precision)
    if path.suffix.lower() == ".onnx" and path.is_file():
        return _open_foreign_graph(path, precision)
    raise ModelError(f"model {path} is not there; expected a bundle folder, or an .onnx file with a .yaml beside it")


def _open_bundle_graph(folder: Path, manifest: Manifest, precision: Precision | None) -> Graph:
    if precision is None:
        precision = next(item for item in PRECISION_PREFERENCE if item in manifest.graphs)
    if precision not in manifest.graphs:
        raise ModelError(f"bundle {folder} holds no {precision} graph; it holds {', '.join(sorted(manifest.graphs))}")
    file = manifest.graphs[precision]
    return Graph(
        path=check_file(folder, file, manifest.files[file]),
        folder=folder,
        sha256=manifest.files[file],
        name=manifest.name,
        preprocess=manifest.preprocess,
        input_name=manifest.input_name,
        output_name=manifest.output_name,
        dimension=manifest.dimension,
        files=manifest.files,
        precision=precision,
        checkpoint_sha256=manifest.checkpoint_sha256,
    )


def _open_foreign_graph(path: Path, precision: Precision | None) -> Graph:
    if precision is not None:
        raise ModelError(f"model {path} is one graph, so precision={precision!r} cannot be chosen; leave it out")
    foreign = read_foreign(path.with_suffix(".yaml"))
    sha256 = file_sha256(path)
    if foreign.sha256 is not None and foreign.sha256 != sha256:
        raise ModelError(_altered(path, foreign.sha256, sha256))
    return Graph(
        path=path,
        folder=path.parent,
        sha256=sha256,
        name=foreign.name or path.stem,
        preprocess=foreign.preprocess,
        input_name=foreign.input,
        output_name=foreign.output,
        dimension=foreign.dimension,
    )


def check_file(folder: Path, name: str, sha256: str) -> Path:
    """Path of a file of the bundle, after comparing its content with the stated hash.

    Raises:
        ModelError: missing, outside the folder (also through a link), or of another content.
    """
    path = inside(folder, name)
    found = file_sha256(path)
    if found != sha256:
        raise ModelError(_altered(path, sha256, found))
    return path


def inside(folder: Path, name: str) -> Path:
    """Path of an existing file `name` within `folder`, links resolved.

    Raises:
        ModelError: it is missing, or lies outside the folder.
    """
    path = folder / name
    try:
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"file {name!r} of {folder} is missing ({error}); copy the folder again") from error
    if not resolved.is_relative_to(folder.resolve()):
        raise ModelError(f"file {name!r} leaves the folder {folder}; put the file itself into the folder")
    if not resolved.is_file():
        raise ModelError(f"{name!r} in {folder} is no file; copy the folder again")
    return path


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's content.

    Raises:
        ModelError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ModelError(f"file {path} cannot be read: {error}") from error
    return digest.hexdigest()


def _altered(path: Path, expected: str, found: str) -> str:
    return f"file {path} was altered or damaged: its sha256 is {found}, expected {expected}; copy or export it again"
