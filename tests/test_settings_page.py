"""The pages of settings say what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("function", "page", "command"),
    [
        ("settings_page", "config.md", "list_settings.py"),
        ("training_settings_page", "training_config.md", "list_settings.py train"),
    ],
)
def test_the_page_is_current(function, page, command):
    made = runpy.run_path(str(ROOT / "tools" / "list_settings.py"))[function]()
    current = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert made == current, f"run: python tools/{command} > docs/{page}"
