"""A page of judged results: plots and tables in one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from progeo_edge.atomic import write_text
from progeo_edge.errors import SourceError

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; margin: 0.8rem 0 }
td, th { padding: 0.25rem 0.8rem; border-bottom: 1px solid #e4e7eb }
th { text-align: left; font-weight: 600 } td { font-variant-numeric: tabular-nums }
svg { width: 100%; height: auto }
</style></head><body>
<h1>{{ title }}</h1>
{% for section in sections %}
<section><h2>{{ section.heading }}</h2>
{% for line in section.lines %}<p>{{ line }}</p>
{% endfor %}{{ section.svg | safe }}
{% if section.rows %}<table><tr>{% for name in section.columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in section.rows %}<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table>{% endif %}</section>
{% endfor %}</body></html>
"""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page.

    Attributes:
        heading: Its title.
        lines: Sentences.
        svg: A plot, from `plots.svg`; "" for none.
        columns: Names of a table's columns.
        rows: Its rows; empty for no table.
    """

    heading: str
    lines: Sequence[str] = ()
    svg: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=tuple)


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the page; everything but the plots is escaped.

    Raises:
        SourceError: the file cannot be written.
    """
    from jinja2 import Environment, StrictUndefined

    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(_TEMPLATE)
    try:
        write_text(path, template.render(title=title, sections=sections))
    except OSError as error:
        raise SourceError(f"{path} cannot be written: {error}; choose another --html") from error
