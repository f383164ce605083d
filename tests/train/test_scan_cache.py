import logging
import os
import time

import pytest

from progeo_edge.errors import SourceError
from progeo_train.data import scan_cache
from progeo_train.data.scan_cache import scan_images


@pytest.fixture
def settled(monkeypatch):
    """Folders made a moment ago count as settled."""
    monkeypatch.setattr(scan_cache, "UNSETTLED_NS", -(10**12))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for part in range(5):
        (root / f"part {part}").mkdir(parents=True)
        for number in range(40):
            (root / f"part {part}" / f"{number:03}.jpg").touch()
    (root / "top.PNG").touch()
    (root / "notes.txt").touch()
    (root / "._top.png").touch()
    (root / ".hidden").mkdir()
    (root / ".hidden" / "a.jpg").touch()
    return root


def expected_names(root):
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix.lower() in (".jpg", ".png") and not any(part.startswith(".") for part in path.parts)
    )


def counter():
    calls: list[int] = []
    return calls, calls.append


def test_first_scan_finds_all_images_and_tells_how_many(folder, tmp_path):
    calls, progress = counter()
    assert list(scan_images(folder, tmp_path / "cache", progress)) == expected_names(folder)
    assert sum(calls) == 201
    assert len(calls) > 1


@pytest.mark.usefixtures("settled")
def test_second_scan_reads_the_cache(folder, tmp_path, monkeypatch):
    first = scan_images(folder, tmp_path / "cache")
    calls, progress = counter()
    monkeypatch.setattr(scan_cache, "_walk", None)
    assert scan_images(folder, tmp_path / "cache", progress) == first
    assert calls == []


@pytest.mark.usefixtures("settled")
def test_a_relative_path_finds_the_same_cache(folder, tmp_path, monkeypatch):
    first = scan_images(folder, tmp_path / "cache")
    monkeypatch.setattr(scan_cache, "_walk", None)
    monkeypatch.chdir(folder.parent)
    assert scan_images(folder.relative_to(folder.parent), tmp_path / "cache") == first


def add_file(root):
    (root / "part 3" / "new.jpg").touch()


def remove_file(root):
    (root / "part 0" / "000.jpg").unlink()


def rename_file(root):
    (root / "part 0" / "000.jpg").rename(root / "part 0" / "x.jpg")


def add_folder(root):
    (root / "part 1" / "deeper").mkdir()
    (root / "part 1" / "deeper" / "new.jpg").touch()


def move_folder(root):
    (root / "part 4").rename(root / "part 9")


def add_file_and_reset_the_time(root):
    before = (root / "part 3").stat()
    (root / "part 3" / "new.jpg").touch()
    os.utime(root / "part 3", ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "change", [add_file, remove_file, rename_file, add_folder, move_folder, add_file_and_reset_the_time]
)
def test_a_changed_folder_is_listed_again(folder, tmp_path, change):
    before = list(scan_images(folder, tmp_path / "cache"))
    time.sleep(0.02)
    change(folder)
    after = list(scan_images(folder, tmp_path / "cache"))
    assert after == expected_names(folder)
    assert after != before


def test_folders_that_changed_a_moment_ago_are_not_trusted(folder, tmp_path, monkeypatch):
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns + 1_000_000_000)
    scan_images(folder, tmp_path / "cache")
    calls, progress = counter()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns + 10_000_000_000)
    scan_images(folder, tmp_path / "cache", progress)
    assert sum(calls) == 201
    calls.clear()
    scan_images(folder, tmp_path / "cache", progress)
    assert calls == []


@pytest.mark.usefixtures("settled")
def test_any_damage_to_the_cache_is_noticed(folder, tmp_path, caplog):
    first = scan_images(folder, tmp_path / "cache")
    (cache,) = (tmp_path / "cache").iterdir()
    content = cache.read_bytes()
    flipped = bytes([content[len(content) // 2] ^ 1])
    damages = [
        b"",
        content[:10],
        content[:-1],
        content + b"x",
        content[: len(content) // 2],
        content[: len(content) // 2] + flipped + content[len(content) // 2 + 1 :],
        b"another version" + content[15:],
    ]
    for damaged in damages:
        cache.write_bytes(damaged)
        caplog.clear()
        assert scan_images(folder, tmp_path / "cache") == first
        assert "is damaged or of another version" in caplog.text
        assert cache.read_bytes() == content


@pytest.mark.usefixtures("settled")
def test_cache_of_another_folder_is_not_taken(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.jpg").touch()
    scan_images(other, tmp_path / "cache")
    (of_other,) = (tmp_path / "cache").iterdir()
    of_other.rename(scan_cache._cache_path(folder.resolve(), tmp_path / "cache"))
    assert list(scan_images(folder, tmp_path / "cache")) == expected_names(folder)


def test_a_cache_that_cannot_be_written_is_a_warning(folder, tmp_path, caplog):
    (tmp_path / "cache").touch()
    with caplog.at_level(logging.WARNING):
        assert len(scan_images(folder, tmp_path / "cache")) == 201
    assert "cannot be kept" in caplog.text


def test_no_cache_folder_keeps_nothing(folder, tmp_path):
    assert len(scan_images(folder, None)) == 201
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_links_are_followed_and_circles_end(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.jpg").touch()
    (elsewhere / "back").symlink_to(folder)
    (folder / "link").symlink_to(elsewhere)
    names = list(scan_images(folder, None))
    assert "link/far.jpg" in names
    assert len(names) == 202


def test_names_that_are_no_utf8_survive(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    name = os.fsdecode(b"caf\xe9.jpg")
    (root / name).touch()
    names = scan_images(root, tmp_path / "cache")
    assert list(names) == [name]
    assert (root / names[0]).is_file()


def test_folder_without_images_and_missing_folder(tmp_path):
    with pytest.raises(SourceError, match="holds no image"):
        scan_images(tmp_path, tmp_path / "cache")
    with pytest.raises(SourceError, match="is not a folder"):
        scan_images(tmp_path / "none", None)
