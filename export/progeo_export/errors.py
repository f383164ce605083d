"""The error of the exporter."""

from __future__ import annotations

from collections.abc import Mapping

from progeo_edge.errors import ModelError


class ExportError(ModelError):
    """An export, a gate, or a file of a bundle failed; the message states the value, the limit and the remedy."""


class GateError(ExportError):
    """A graph was measured and refused.

    Attributes:
        figures: All that was measured, as of `gates.measure`.
    """

    def __init__(self, message: str, figures: Mapping[str, float]) -> None:
        super().__init__(message)
        self.figures = dict(figures)
