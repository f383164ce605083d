"""Whether a plot can be written, asked before anything is measured."""

from __future__ import annotations

from pathlib import Path

from progeo_edge.errors import InputError

SUFFIXES = (".png", ".svg", ".pdf")


def check_plot_path(path: Path) -> None:
    """Refuse a file that cannot be drawn to, before anything is measured.

    Raises:
        InputError: a suffix that is none of .png, .svg and .pdf, or a folder that does not exist.
    """
    if path.suffix.lower() not in SUFFIXES or not path.parent.is_dir():
        raise InputError(f"plot {path} cannot be written; name a file ending in .png, .svg or .pdf in a folder")
