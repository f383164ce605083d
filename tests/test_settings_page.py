"""docs/config.md says what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_page_is_current():
    made = runpy.run_path(str(ROOT / "tools" / "list_settings.py"))["settings_page"]()
    current = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert made == current, "run: python tools/list_settings.py > docs/config.md"
