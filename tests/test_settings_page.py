"""docs/config.md says what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_page_is_current():
    made = subprocess.run(
        [sys.executable, ROOT / "tools" / "list_settings.py"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    current = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert made.stdout == current, "run: python tools/list_settings.py > docs/config.md"
