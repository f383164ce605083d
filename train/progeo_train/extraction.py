"""Features and descriptors of many images, computed by any number of processes that share the rows.

`extract_features` writes them into a folder that survives a kill and is larger than the memory; `describe` keeps a
small set in the memory of every process.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from progeo_edge import atomic
from progeo_edge.errors import SourceError
from progeo_edge.evaluation.retrieval import list_images
from progeo_edge.sources.images import read_image
from progeo_edge.types import Image
from progeo_train.checkpoint_file import load_encoder_weights, model_sha256
from progeo_train.data.image_table import ImageNames, ImageTable
from progeo_train.describing import (
    ImageForm,
    ImageRows,
    Model,
    PerChannel,
    batches_of,
    described,
    evaluating,
)
from progeo_train.feature_file import FeatureFile
from progeo_train.feature_storage import UNREADABLE, FeatureType

_log = logging.getLogger(__name__)

NAMES = "names.txt"

CountProgress = Callable[[int], object]


def extract_features(
    module: Model,
    paths: ImageRows,
    size_px: tuple[int, int],
    mean: PerChannel,
    std: PerChannel,
    folder: Path,
    key: str,
    fabric: Fabric,
    *,
    dim: int,
    batch_size: int,
    workers: int = 0,
    dtype: FeatureType = "float32",
    progress: CountProgress | None = None,
    read: Callable[[Path], Image] = read_image,
) -> FeatureFile:
    """Compute the features of every image that the folder does not hold yet; every process calls this.

    A row does not depend on the number of processes, nor on where a killed run had stopped: batches are cut within
    chunks of rows. The row of an image that cannot be read is NaN, and `unreadable.txt` names it; it stays so until
    `key` changes or the folder is deleted.

    Args:
        module: (B, 3, H, W) float32, normalised, to (B, D), on the device of `fabric`. Not a wrapper that
            synchronises processes, since these compute different numbers of batches. A module is put into
            evaluation mode meanwhile.
        paths: The images.
        size_px: Height and width that the module sees.
        mean: RGB, for values scaled to 0..1.
        std: As `mean`.
        folder: Of the `FeatureFile`; all machines must see it.
        key: Changes with everything that a feature depends on.
        fabric: Launched; its precision holds.
        dim: D.
        batch_size: Images at a time, per process.
        workers: Reading processes per process; 0 reads in this one.
        dtype: How features are stored.
        progress: Called with the number of rows that have been done since the last call, by all processes.
        read: Decodes an image file, or raises FrameError.

    Returns:
        The complete file.

    Raises:
        SourceError: not one image can be read, or the folder cannot be used.
        InputError: the module gives another dimension, or values that are not finite.
    """
    form = ImageForm(size_px, mean, std, read)
    file = _open_on_all(paths, folder, key, fabric, dim, dtype)
    reported = _report(file, 0, progress)
    with evaluating(module):
        for chunk, values in _chunks(module, paths, form, file, fabric, batch_size, workers):
            file.write_chunk(chunk, values, fabric.global_rank)
            reported = _report(file, reported, progress)
    fabric.barrier("extracted")
    _report(file, reported, progress)
    _summarise_unreadable(file, paths, fabric)
    return FeatureFile.open_existing(folder, key=key)


def describe(
    module: Model,
    paths: ImageRows,
    size_px: tuple[int, int],
    mean: PerChannel,
    std: PerChannel,
    fabric: Fabric,
    *,
    dim: int,
    batch_size: int,
    workers: int = 0,
    progress: CountProgress | None = None,
    read: Callable[[Path], Image] = read_image,
) -> NDArray[np.float32]:
    """Descriptors of a set that fits the memory; the processes share the images and all get the whole.

    Args:
        module: As in `extract_features`.
        paths: The images.
        size_px: Height and width that the module sees.
        mean: RGB, for values scaled to 0..1.
        std: As `mean`.
        fabric: Launched.
        dim: D.
        batch_size: Images at a time, per process.
        workers: Reading processes per process.
        progress: Called with the number of images of each batch of this process.
        read: Decodes an image file, or raises FrameError.

    Returns:
        (N, D) float32; the row of an image that cannot be read is NaN.

    Raises:
        InputError: the module gives another dimension, or values that are not finite.
    """
    form = ImageForm(size_px, mean, std, read)
    share = -(-len(paths) // fabric.world_size)
    # Padded, since all processes must give equally much to `all_gather`.
    own = np.full((share, dim), np.nan, np.float32)
    first = min(fabric.global_rank * share, len(paths))
    batches = batches_of(range(first, min(first + share, len(paths))), batch_size)
    with evaluating(module):
        for rows, values in described(module, paths, form, batches, fabric, dim, workers):
            own[rows.start - first : rows.stop - first] = values
            if progress is not None:
                progress(len(rows))
    if fabric.world_size == 1:
        return own
    gathered = fabric.all_gather(torch.from_numpy(own))
    assert isinstance(gathered, Tensor)
    return gathered.flatten(0, 1)[: len(paths)].cpu().numpy()


def extract_data_set(
    checkpoint: Path,
    images: Path,
    out: Path,
    fabric: Fabric,
    *,
    batch_size: int = 16,
    workers: int = 8,
    dtype: FeatureType = "float32",
    progress: Callable[[int, int], object] | None = None,
) -> FeatureFile:
    """Descriptors of a folder or a list of images with the encoder of a checkpoint; every process calls this.

    `out` gets the files of a `FeatureFile` and `names.txt`, the name of the image of each row.

    Args:
        checkpoint: Of stage 2, or imported.
        images: Folder, searched at any depth, or a .txt file with one path per line, relative to its folder.
        out: Continued when it holds the beginning of the same work, replaced when it holds another's.
        fabric: Launched; its precision holds.
        batch_size: Images at a time, per process.
        workers: Reading processes per process.
        dtype: How descriptors are stored.
        progress: Called with the number of new rows and of all rows.

    Raises:
        ModelError: the checkpoint is not one, or holds no encoder.
        SourceError: no images, none that can be read, or `out` cannot be used.
    """
    encoder = load_encoder_weights(checkpoint).to(fabric.device).eval()
    spec = encoder.spec
    table = _list_on_all(images, out, fabric)
    precision = repr(fabric.strategy.precision.precision)
    parts = (table.names.fingerprint(), model_sha256(checkpoint), spec.model_dump_json(), precision)
    key = fabric.broadcast(images_key(table, *parts) if fabric.is_global_zero else "")
    return extract_features(
        encoder,
        table,
        spec.image_size_px,
        spec.mean,
        spec.std,
        out,
        key,
        fabric,
        dim=spec.descriptor_dim,
        batch_size=batch_size,
        workers=workers,
        dtype=dtype,
        progress=None if progress is None else lambda new: progress(new, len(table)),
    )


def images_key(images: ImageRows, *parts: str) -> str:
    """sha256 over the files of images (size, time of change; not their place) and whatever else features depend on."""
    digest = hashlib.sha256(repr(parts).encode())
    sizes = np.full((len(images), 2), -1, np.int64)
    for row in range(len(images)):
        try:
            status = images.path(row).stat()
        except OSError:
            continue
        sizes[row] = status.st_size, status.st_mtime_ns
    digest.update(sizes.tobytes())
    return digest.hexdigest()


def read_names(folder: Path) -> ImageNames:
    """The name of the image of each row of an extracted data set.

    Raises:
        SourceError: `names.txt` is missing.
    """
    try:
        text = (folder / NAMES).read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise SourceError(
            f"{folder} holds no {NAMES} ({error.strerror or error}); extract the data set again"
        ) from error
    return ImageNames.from_names(text.split("\n")[:-1])


def _list_on_all(images: Path, out: Path, fabric: Fabric) -> ImageTable:
    """The first process lists the images and the others read its list, so that all have the same."""
    root = images if images.is_dir() else images.parent
    if fabric.is_global_zero:
        names = _list(images)
        try:
            out.mkdir(parents=True, exist_ok=True)
            text = "".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape")
            atomic.write_bytes(out / NAMES, text)
        except OSError as error:
            raise SourceError(f"{out} cannot be written: {error.strerror or error}; choose another folder") from error
    fabric.barrier("names are there")
    return ImageTable.of(root, read_names(out))


def _list(images: Path) -> list[str]:
    if images.is_dir():
        names = list_images(images)
    else:
        try:
            text = images.read_bytes().decode("utf-8", "surrogateescape")
        except OSError as error:
            raise SourceError(
                f"{images} cannot be read: {error.strerror or error}; name a folder of images or a .txt file that "
                "lists them"
            ) from error
        if "\0" in text:
            raise SourceError(f"{images} is no text file; name a folder of images or a .txt file that lists them")
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise SourceError(f"{images} lists no image; write one path per line, relative to its folder")
    if (broken := next((name for name in names if "\n" in name or "\r" in name), None)) is not None:
        raise SourceError(f"the image name {broken!r} holds a line break, which {NAMES} cannot; rename the file")
    return names


def _open_on_all(paths: ImageRows, folder: Path, key: str, fabric: Fabric, dim: int, dtype: FeatureType) -> FeatureFile:
    if fabric.is_global_zero:
        FeatureFile.open_or_create(folder, len(paths), dim, key, dtype=dtype, world_size=fabric.world_size)
    fabric.barrier("feature file is there")
    file = FeatureFile.open_existing(folder, key=key, complete=False)
    if file.num_done and fabric.is_global_zero:
        _log.info("features in %s: %d of %d rows are there already", folder, file.num_done, len(paths))
    return file


def _report(file: FeatureFile, reported: int, progress: CountProgress | None) -> int:
    """Rows done so far, by all processes; tells `progress` how many are new."""
    if progress is None:
        return 0
    done = file.num_done
    progress(done - reported)
    return done


def _chunks(
    module: Model,
    paths: ImageRows,
    form: ImageForm,
    file: FeatureFile,
    fabric: Fabric,
    batch_size: int,
    workers: int,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Compute this process's open chunks: number and (rows of the chunk, D)."""
    open_chunks = file.open_chunks(fabric.global_rank, fabric.world_size)
    batches = [batch for chunk in open_chunks for batch in batches_of(file.rows_of(chunk), batch_size)]
    found_batches = described(module, paths, form, batches, fabric, file.dim, workers)
    for chunk in open_chunks:
        chunk_rows = file.rows_of(chunk)
        values = np.empty((len(chunk_rows), file.dim), np.float32)
        filled = 0
        while filled < len(chunk_rows):
            rows, found = next(found_batches)
            values[rows.start - chunk_rows.start : rows.stop - chunk_rows.start] = found
            filled += len(rows)
        yield chunk, values


def _summarise_unreadable(file: FeatureFile, paths: ImageRows, fabric: Fabric) -> None:
    unreadable = np.flatnonzero(~file.readable)
    if len(unreadable) == len(paths):
        if fabric.is_global_zero:
            file.forget()
        raise SourceError(
            f"none of the {len(paths)} images can be read, such as {paths.path(0)}; check that their folder is mounted "
            "and that they are images"
        )
    if not fabric.is_global_zero:
        return
    names = [str(paths.path(int(row))) for row in unreadable]
    atomic.write_bytes(
        file.folder / UNREADABLE, "".join(f"{name}\n" for name in names).encode(errors="surrogateescape")
    )
    if names:
        _log.warning(
            "%d of %d images cannot be read and have no features, such as %s; %s names them all",
            len(names),
            len(paths),
            names[0],
            file.folder / UNREADABLE,
        )
