from __future__ import annotations

import pytest

from progeo_edge.errors import SourceError
from progeo_edge.evaluation.page import Section, write_page


def test_names_are_escaped_and_plots_are_not(tmp_path):
    path = tmp_path / "page.html"
    section = Section("<b>", ["a & b"], "<svg></svg>", ("name",), [("<script>",)])
    write_page(path, "run <1>", [section])
    text = path.read_text()
    assert "<svg></svg>" in text and "<script>" not in text and "&lt;script&gt;" in text
    assert "<title>run &lt;1&gt;</title>" in text and "a &amp; b" in text


def test_a_page_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(SourceError, match="choose another --html"):
        write_page(tmp_path / "no" / "page.html", "t", [])
