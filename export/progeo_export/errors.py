"""The error of the exporter."""

from __future__ import annotations

from progeo_edge.errors import ModelError


class ExportError(ModelError):
    """An export, a gate, or a file of a bundle failed; the message states the value, the limit and the remedy."""
