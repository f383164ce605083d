"""Reading what the kernel says of itself in /proc and /sys."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str | None:
    """Content of a small file, stripped; None where it is absent, empty, or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """A whole number from a file that holds nothing else; None where there is none."""
    text = read_text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
