"""A bundle as one tar file: packed to the same bytes every time, unpacked without trusting a word of it."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from progeo_edge import atomic
from progeo_edge.bundle import MANIFEST_NAME, Manifest, read_manifest
from progeo_edge.errors import ModelError
from progeo_edge.graph_file import check_file
from progeo_export.bundle_writer import refuse_existing, replacing_folder
from progeo_export.errors import ExportError

MAX_BYTES = 8 << 30
"""Largest sum of file sizes that `unpack` accepts by default."""
MAX_FILES = 64

_BLOCK = 1 << 20


def pack(folder: Path, tar: Path) -> Path:
    """Write a bundle's manifest and the files it names into one uncompressed tar, atomically.

    Times, owners and modes are fixed and names sorted: the same bundle gives the same bytes. Engines and caches in the
    folder are left out; they belong to one device.

    Raises:
        ModelError: the bundle is broken, or a file is not what the manifest says.
    """
    manifest = read_manifest(folder)
    top = re.sub(r"[^A-Za-z0-9._-]+", "-", manifest.name).strip(".-") or "bundle"
    paths = {name: check_file(folder, name, sha256) for name, sha256 in manifest.files.items()}
    paths[MANIFEST_NAME] = folder / MANIFEST_NAME
    tar.parent.mkdir(parents=True, exist_ok=True)
    with atomic.replacing(tar) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
        # The manifest goes first, so that a reader of the stream knows what follows.
        for name in sorted(paths, key=lambda name: (name != MANIFEST_NAME, name)):
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = paths[name].stat().st_size
            member.mode = 0o644
            with paths[name].open("rb") as stream:
                archive.addfile(member, stream)
    return tar


def unpack(tar: Path, folder: Path, *, force: bool = False, max_bytes: int = MAX_BYTES) -> Manifest:
    """Unpack a tar of `pack` into a new bundle folder, which appears complete and checked or not at all.

    Only plain files are accepted, under one top folder, up to `max_bytes` together; each must be named by the manifest
    and have its sha256.

    Args:
        tar: Uncompressed tar.
        folder: The bundle to make.
        force: Replace an existing bundle.
        max_bytes: Limit of the sum of sizes.

    Raises:
        ExportError: no tar, a member that is not allowed, too large, or content that the manifest does not state.
        ModelError: the manifest in it is broken.
    """
    refuse_existing(folder, force=force)
    try:
        with tarfile.open(tar, "r:") as archive, replacing_folder(folder) as draft:
            _extract(archive, draft, tar, max_bytes)
            return _check(draft, tar)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ExportError(
            f"{tar} cannot be unpacked to {folder}: {error}; give an undamaged, uncompressed tar of a bundle"
        ) from error


def _extract(archive: tarfile.TarFile, draft: Path, tar: Path, max_bytes: int) -> None:
    total = 0
    for count, (member, name) in enumerate(_plain_members(archive, tar)):
        total += member.size
        if total > max_bytes or count >= MAX_FILES:
            raise ExportError(
                f"{tar} holds more than {max_bytes} bytes or {MAX_FILES} files; a bundle is smaller, so it is refused"
            )
        target = draft / name
        if target.exists():
            raise ExportError(f"{tar} holds {member.name!r} twice; pack the bundle again")
        target.parent.mkdir(parents=True, exist_ok=True)
        source = archive.extractfile(member)
        if source is None:
            raise ExportError(f"{tar}: member {member.name!r} has no content; pack the bundle again")
        with source, target.open("xb") as stream:
            _copy(source, stream, member.size)


def _plain_members(archive: tarfile.TarFile, tar: Path) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """Members with their path below the top folder; directories are skipped, anything but plain files refused."""
    top: str | None = None
    for member in archive:
        parts = member.name.split("/")
        if member.isdir() and ".." not in parts:
            continue
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise ExportError(f"{tar}: member {member.name!r} is no plain file (a link or device?); it is refused")
        unsafe = any(part in ("", ".", "..") for part in parts) or any(c in member.name for c in "\\:\0")
        if unsafe or len(parts) < 2 or parts[0] != (top or parts[0]):
            raise ExportError(f"{tar}: member {member.name!r} does not stay in one folder; it is refused")
        top = parts[0]
        yield member, PurePosixPath(*parts[1:])


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    shutil.copyfileobj(source, target, _BLOCK)
    if target.tell() != size:
        raise tarfile.ReadError(f"the file ends after {target.tell()} of {size} bytes of a member")


def _check(draft: Path, tar: Path) -> Manifest:
    try:
        manifest = read_manifest(draft)
    except ModelError as error:
        raise ExportError(f"{tar} holds no usable bundle: {error}") from error
    found = {path.relative_to(draft).as_posix() for path in draft.rglob("*") if path.is_file()}
    if strange := sorted(found - set(manifest.files) - {MANIFEST_NAME}):
        raise ExportError(f"{tar} holds {strange[0]!r}, which its manifest does not name; it is refused")
    for name, sha256 in manifest.files.items():
        try:
            check_file(draft, name, sha256)
        except ModelError as error:
            raise ExportError(f"{tar} is damaged: {str(error).replace(str(draft), tar.name)}") from error
    return manifest
