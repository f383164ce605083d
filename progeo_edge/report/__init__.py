"""report.html: what a run found and why it found no more, in one file that opens from disk."""

from progeo_edge.report.build import write_report

__all__ = ["write_report"]
