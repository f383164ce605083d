"""The files of a `FeatureFile`: create, check and write them. feature_file.py says what they mean."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from progeo_edge import atomic
from progeo_edge.errors import SourceError

FEATURES, DESCRIPTION, UNREADABLE = "features.npy", "description.json", "unreadable.txt"
MARKS = "done.*.bin"
PAGE_BYTES = 4096

FeatureType = Literal["float32", "float16"]


class Description(BaseModel):
    """What `description.json` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_version: Literal[1] = 1
    num_rows: int = Field(ge=1)
    dim: int = Field(ge=1)
    dtype: FeatureType
    key: str = Field(min_length=1)
    chunk_rows: int = Field(ge=1)


class DamagedFeaturesError(SourceError):
    """A folder of features cannot be used as it is; `reason` says why in a few words."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"features in {folder} cannot be used: {reason}; extract them again")
        self.reason = reason


def create(folder: Path, description: Description) -> None:
    """Make the files of a new, empty set of features.

    Marks go first and the new features come last: whatever is left after a kill holds no mark of other content.

    Raises:
        OSError: the folder cannot be written, or the space is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_marks(folder)
    (folder / UNREADABLE).unlink(missing_ok=True)
    atomic.write_text(folder / DESCRIPTION, description.model_dump_json(indent=2) + "\n")
    with (folder / FEATURES).open("wb") as file:
        # Taking the space now turns a full disk into a message at the start.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, _file_bytes(description))
        file.truncate(_file_bytes(description))
        file.write(_npy_header(description))
        file.flush()
        os.fsync(file.fileno())


def remove_marks(folder: Path) -> None:
    """Take every mark away, durably."""
    for path in folder.glob("done.*.bin"):
        path.unlink()
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_description(folder: Path) -> Description:
    """Read `description.json`.

    Raises:
        DamagedFeaturesError: missing, or not what this version writes.
    """
    path = folder / DESCRIPTION
    try:
        return Description.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DamagedFeaturesError(folder, f"{DESCRIPTION} cannot be read ({error.strerror or error})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DamagedFeaturesError(
            folder, f"{DESCRIPTION} is damaged or of another version ({where}: {first['msg']})"
        ) from None


def check_features(folder: Path, description: Description) -> None:
    """Check size and header of `features.npy`.

    Raises:
        DamagedFeaturesError: missing, truncated, or of another shape than the description says.
    """
    path, expected = folder / FEATURES, _file_bytes(description)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(PAGE_BYTES)
    except OSError as error:
        raise DamagedFeaturesError(folder, f"{FEATURES} cannot be read ({error.strerror or error})") from None
    if size != expected:
        how = "truncated" if size < expected else "too long"
        raise DamagedFeaturesError(folder, f"{FEATURES} is {how}: {size} bytes, expected {expected}")
    if header != _npy_header(description):
        raise DamagedFeaturesError(folder, f"the header of {FEATURES} is damaged")


def _file_bytes(description: Description) -> int:
    return PAGE_BYTES + description.num_rows * description.dim * np.dtype(description.dtype).itemsize


def _npy_header(description: Description) -> bytes:
    """A .npy header (format 1.0) that fills the first page, so that numpy.load reads the file too."""
    text = io.BytesIO()
    form = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(description.dtype)),
        "fortran_order": False,
        "shape": (description.num_rows, description.dim),
    }
    np.lib.format.write_array_header_1_0(text, form)
    # 10 bytes are the magic string, the version and the length of what follows, which ends in a line break.
    fields = text.getvalue()[10:].rstrip()
    padding = PAGE_BYTES - 10 - len(fields) - 1
    return b"\x93NUMPY\x01\x00" + (PAGE_BYTES - 10).to_bytes(2, "little") + fields + b" " * padding + b"\n"


def write_durably(path: Path, offset: int, data: bytes, *, create: bool = False) -> None:
    """Write bytes at an offset and wait until they are on the disk.

    Raises:
        OSError: the disk does not take them.
    """
    # Write-only: a file that was read before is cached by whole pages, and network file systems write these back.
    descriptor = os.open(path, os.O_WRONLY | (os.O_CREAT if create else 0), 0o644)
    try:
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
