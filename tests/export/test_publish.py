from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from progeo_edge.bundle import read_manifest
from progeo_edge.errors import ModelError
from progeo_export import publish
from progeo_export.errors import ExportError
from progeo_export.publish import pack, unpack
from tests.tiny_encoder import write_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "bundle", precisions=("fp32", "fp16"), external_data=True)


@pytest.fixture
def tar(bundle: Path, tmp_path: Path) -> Path:
    return pack(bundle, tmp_path / "tiny.tar")


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_comes_back_as_it_was(bundle: Path, tar: Path, tmp_path: Path) -> None:
    manifest = unpack(tar, tmp_path / "deep" / "copy")
    assert manifest == read_manifest(bundle)
    assert content(tmp_path / "deep" / "copy") == content(bundle)
    assert set(content(bundle)) >= {"model.onnx", "model.fp16.onnx", "weights.bin", "golden.npz", "manifest.json"}


def test_packing_twice_gives_the_same_bytes(bundle: Path, tar: Path, tmp_path: Path) -> None:
    for path in bundle.iterdir():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    (bundle / "engine-cache.plan").write_bytes(b"of this device")
    moved = bundle.rename(tmp_path / "elsewhere")
    assert pack(moved, tmp_path / "again.tar").read_bytes() == tar.read_bytes()


def test_the_tar_is_tidy(tar: Path) -> None:
    with tarfile.open(tar, "r:") as archive:
        members = archive.getmembers()
    assert members[0].name == "tiny/manifest.json"
    assert all(m.isreg() and m.name.startswith("tiny/") for m in members)
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


def test_a_damaged_bundle_is_not_packed(bundle: Path, tmp_path: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"other")
    with pytest.raises(ModelError, match="altered or damaged"):
        pack(bundle, tmp_path / "a.tar")
    assert not (tmp_path / "a.tar").exists()


def rewrite(tar: Path, change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes] | None]) -> None:
    """Every member again, changed or left out."""
    with tarfile.open(tar, "r:") as archive:
        members = [(m, archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]
    with tarfile.open(tar, "w") as archive:
        for member, data in members:
            changed = change(member, data)
            if changed is not None:
                changed[0].size = len(changed[1])
                archive.addfile(changed[0], io.BytesIO(changed[1]))


def append(tar: Path, name: str, *, kind: bytes = tarfile.REGTYPE, data: bytes = b"", link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, len(data)
    with tarfile.open(tar, "a") as archive:
        archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    ("name", "kind", "link", "message"),
    [
        ("tiny/link", tarfile.SYMTYPE, "/etc/passwd", "no plain file"),
        ("tiny/link", tarfile.SYMTYPE, "model.onnx", "no plain file"),
        ("tiny/hard", tarfile.LNKTYPE, "tiny/model.onnx", "no plain file"),
        ("tiny/null", tarfile.CHRTYPE, "", "no plain file"),
        ("tiny/disk", tarfile.BLKTYPE, "", "no plain file"),
        ("tiny/pipe", tarfile.FIFOTYPE, "", "no plain file"),
        ("/etc/absolute", tarfile.REGTYPE, "", "does not stay in one folder"),
        ("tiny/../../up", tarfile.REGTYPE, "", "does not stay in one folder"),
        ("../up", tarfile.REGTYPE, "", "does not stay in one folder"),
        ("tiny//up", tarfile.REGTYPE, "", "does not stay in one folder"),
        ("tiny/C:\\up", tarfile.REGTYPE, "", "does not stay in one folder"),
        ("other/file", tarfile.REGTYPE, "", "does not stay in one folder"),
        ("file", tarfile.REGTYPE, "", "does not stay in one folder"),
        ("tiny/model.onnx", tarfile.REGTYPE, "", "twice"),
        ("tiny/extra.py", tarfile.REGTYPE, "", "'extra.py', which its manifest does not name"),
        ("..", tarfile.DIRTYPE, "", "no plain file"),
    ],
)
def test_what_is_not_a_file_of_the_bundle_is_refused(
    name: str, kind: bytes, link: str, message: str, tar: Path, tmp_path: Path
) -> None:
    append(tar, name, kind=kind, link=link)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ExportError, match=message):
        unpack(tar, tmp_path / "copy")
    assert set(tmp_path.rglob("*")) == before


def test_a_sparse_member_is_refused(tar: Path, tmp_path: Path) -> None:
    """A few bytes that claim to be a file of terabytes."""
    member = tarfile.TarInfo("tiny/large.bin")
    member.pax_headers = {"GNU.sparse.size": str(1 << 40), "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,1"}
    member.size = 1
    with tarfile.open(tar, "a", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(ExportError, match="no plain file"):
        unpack(tar, tmp_path / "copy")


def test_a_directory_entry_is_no_harm(tar: Path, tmp_path: Path) -> None:
    append(tar, "tiny/sub", kind=tarfile.DIRTYPE)
    unpack(tar, tmp_path / "copy")
    assert not (tmp_path / "copy" / "sub").exists()


def test_too_large_is_refused_by_the_stated_size(tar: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="more than 1000 bytes"):
        unpack(tar, tmp_path / "copy", max_bytes=1000)
    assert not (tmp_path / "copy").exists()


def test_too_many_files_are_refused(tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "MAX_FILES", 3)
    with pytest.raises(ExportError, match="3 files"):
        unpack(tar, tmp_path / "copy")


def flip(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    if member.name.endswith("/model.onnx"):
        data = bytes([data[0] ^ 1]) + data[1:]
    return member, data


def test_one_flipped_bit_is_noticed(tar: Path, tmp_path: Path) -> None:
    rewrite(tar, flip)
    with pytest.raises(ExportError, match=r"is damaged: .*model\.onnx was altered.*sha256"):
        unpack(tar, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("missing", "message"),
    [("tiny/manifest.json", "holds no usable bundle"), ("tiny/golden.npz", "is damaged: .*golden.npz' .* missing")],
)
def test_a_missing_file_is_noticed(missing: str, message: str, tar: Path, tmp_path: Path) -> None:
    rewrite(tar, lambda member, data: None if member.name == missing else (member, data))
    with pytest.raises(ExportError, match=message):
        unpack(tar, tmp_path / "copy")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9])
def test_a_truncated_tar_is_refused(share: float, tar: Path, tmp_path: Path) -> None:
    data = tar.read_bytes()
    tar.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ExportError):
        unpack(tar, tmp_path / "copy")
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "tiny.tar"}


@pytest.mark.parametrize("data", [b"", b"no tar at all" * 100])
def test_what_is_no_tar_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ExportError):
        unpack(tmp_path / "a.tar", tmp_path / "copy")
    with pytest.raises(ExportError, match="cannot be unpacked"):
        unpack(tmp_path / "nowhere.tar", tmp_path / "copy")


def test_a_compressed_tar_is_refused(bundle: Path, tmp_path: Path) -> None:
    """A small compressed file can unpack to any size."""
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(bundle, "tiny")
    with pytest.raises(ExportError, match="uncompressed"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "copy")


def test_an_existing_bundle_stays_unless_forced(bundle: Path, tar: Path, tmp_path: Path) -> None:
    before = content(bundle)
    with pytest.raises(ExportError, match="exists already"):
        unpack(tar, bundle)
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(tar.read_bytes())
    rewrite(damaged, flip)
    with pytest.raises(ExportError, match="damaged"):
        unpack(damaged, bundle, force=True)
    assert content(bundle) == before
    (bundle / "old.plan").write_bytes(b"an engine")
    unpack(tar, bundle, force=True)
    assert content(bundle) == before


def test_the_name_of_a_model_cannot_leave_the_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    manifest = read_manifest(bundle).model_copy(update={"name": "../../etc/ä model"})
    monkeypatch.setattr(publish, "read_manifest", lambda folder: manifest)
    with tarfile.open(pack(bundle, tmp_path / "a.tar"), "r:") as archive:
        assert {name.split("/")[0] for name in archive.getnames()} == {"etc-model"}
