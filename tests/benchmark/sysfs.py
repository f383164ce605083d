"""Folders that look like /sys and /proc."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def write_files(root: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def no_tool(command: Sequence[str]) -> str | None:
    return None
