"""Writes a bundle as a whole: in a folder beside its place, which takes the place by one rename when it is complete."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from progeo_edge import __version__
from progeo_edge.bundle import MANIFEST_NAME, SCHEMA_VERSION, Manifest, Precision, Preprocess, write_manifest
from progeo_edge.graph_file import file_sha256
from progeo_export.errors import ExportError
from progeo_export.gates import LIMITS, tolerances

_log = logging.getLogger(__name__)

GRAPH_NAMES: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
GOLDEN_NAME = "golden.npz"
_TOOLS = ("torch", "open_clip_torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True)
class BundleRecord:
    """What the manifest says of the model beside the files themselves.

    Attributes:
        name: What a person calls the model.
        architecture: Backbone and head.
        preprocess: Image to graph input.
        opset: ONNX opset of the graphs.
        checkpoint_sha256: Hash of the exported checkpoint; None when there was no file.
        max_batch: Largest batch that was proven.
        islands: Names of the nodes kept in FP32 in the half graph.
        probe_images: Where the images of the figures come from.
        notes: What the exporter decided by itself, one sentence each.
        input_name: Name of the image input.
        output_name: Name of the descriptor output.
    """

    name: str
    architecture: str
    preprocess: Preprocess
    opset: int
    checkpoint_sha256: str | None = None
    max_batch: int | None = None
    islands: tuple[str, ...] = ()
    probe_images: str = ""
    notes: tuple[str, ...] = ()
    input_name: str = "image"
    output_name: str = "descriptor"


def write_bundle(
    folder: Path,
    graphs: Mapping[Precision, Path],
    record: BundleRecord,
    figures: Mapping[Precision, Mapping[str, float]],
    golden_images: NDArray[np.uint8],
    golden_descriptors: NDArray[np.float32],
    *,
    force: bool = False,
) -> Manifest:
    """Write graphs, golden file and manifest; the folder appears complete or not at all.

    Args:
        folder: The bundle; its parent is created.
        graphs: ONNX file of each precision; copied.
        record: What the manifest says of the model.
        figures: Per precision, what `gates.measure` gave.
        golden_images: (8, height_px, width_px, 3) uint8 BGR of the graph's size.
        golden_descriptors: (8, D) float32 descriptors of the FP32 model for them.
        force: Replace an existing bundle (and nothing but a bundle).

    Raises:
        ExportError: the folder exists and `force` is not given, or it is no bundle; golden arrays do not fit.
    """
    _check_golden(golden_images, golden_descriptors, record.preprocess)
    refuse_existing(folder, force=force)
    with replacing_folder(folder) as draft:
        for precision, path in graphs.items():
            shutil.copyfile(path, draft / GRAPH_NAMES[precision])
        np.savez(draft / GOLDEN_NAME, images=golden_images, descriptors=golden_descriptors)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=record.name,
            architecture=record.architecture,
            dimension=golden_descriptors.shape[1],
            preprocess=record.preprocess,
            preprocess_hash=record.preprocess.hash,
            graphs={precision: GRAPH_NAMES[precision] for precision in graphs},
            files={path.name: file_sha256(path) for path in sorted(draft.iterdir())},
            input_name=record.input_name,
            output_name=record.output_name,
            opset=record.opset,
            islands=record.islands,
            golden=GOLDEN_NAME,
            tolerances={precision: tolerances(LIMITS[precision]) for precision in figures},
            parity={precision: dict(values) for precision, values in figures.items()},
            tool_versions=tool_versions(),
            checkpoint_sha256=record.checkpoint_sha256,
            max_batch=record.max_batch,
            probe_images=record.probe_images,
            notes=record.notes,
        )
        write_manifest(manifest, draft)
    return manifest


def refuse_existing(folder: Path, *, force: bool) -> None:
    """Fail early when `folder` may not be written; `force` allows to replace a bundle, never anything else.

    Raises:
        ExportError: it exists without `force`, or it is a file, a link, or a folder with other content.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    is_empty = folder.is_dir() and not any(folder.iterdir())
    is_bundle = folder.is_dir() and not folder.is_symlink() and (folder / MANIFEST_NAME).is_file()
    if not (is_bundle or is_empty):
        raise ExportError(f"{folder} exists and is no bundle, so it is not replaced; name another folder")
    if is_bundle and not force:
        raise ExportError(f"bundle {folder} exists already; name another folder, or replace it with --force")


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; it takes its place when the body succeeds and vanishes when not.

    An existing `folder` stays untouched until then. A process that is killed leaves at most a hidden folder, which the
    next write of the same bundle removes.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    draft = Path(tempfile.mkdtemp(prefix=_draft_prefix(folder, os.getpid()), dir=folder.parent))
    try:
        yield draft
        _sync_tree(draft)
        draft.chmod(0o755)
        _take_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def tool_versions() -> dict[str, str]:
    """Versions of what takes part in an export, as far as it is installed."""
    versions = {"progeo-edge": __version__, "python": platform.python_version()}
    for tool in _TOOLS:
        try:
            versions[tool] = version(tool)
        except PackageNotFoundError:
            continue
    return versions


def _check_golden(images: NDArray[np.uint8], descriptors: NDArray[np.float32], preprocess: Preprocess) -> None:
    expected = (len(descriptors), preprocess.height_px, preprocess.width_px, 3)
    if images.dtype != np.uint8 or images.shape != expected:
        raise ExportError(f"golden images are {images.shape} {images.dtype}; expected {expected} uint8")
    if descriptors.dtype != np.float32 or descriptors.ndim != 2 or not np.isfinite(descriptors).all():
        raise ExportError(
            f"golden descriptors are {descriptors.shape} {descriptors.dtype}; expected finite (N, D) float32"
        )


def _take_place(draft: Path, folder: Path) -> None:
    """Rename; an old bundle is set aside first and comes back when the second rename fails."""
    if not folder.exists():
        draft.rename(folder)
        _sync(folder.parent)
        return
    aside = Path(tempfile.mkdtemp(prefix=_draft_prefix(folder, os.getpid()), dir=folder.parent))
    try:
        folder.rename(aside / "old")
        try:
            draft.rename(folder)
        except OSError:
            (aside / "old").rename(folder)
            raise
        _sync(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _draft_prefix(folder: Path, process: int | str) -> str:
    return f".{folder.name}.{process}-"


def _remove_leftovers(folder: Path) -> None:
    start = f".{folder.name}."
    for path in [path for path in folder.parent.iterdir() if path.name.startswith(start)]:
        process = path.name[len(start) :].partition("-")[0]
        if path.is_dir() and process.isdigit() and not _is_alive(int(process)):
            _log.info("removing %s, left by an export that was killed", path)
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
