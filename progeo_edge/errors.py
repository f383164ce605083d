"""The errors a user can cause and mend: each message states the value, what was expected, and the remedy."""

from __future__ import annotations


class ProgeoError(Exception):
    """Root of every error that progeo-edge raises on purpose. Commands print it on one line and exit with 2."""


class ConfigError(ProgeoError):
    """A setting or a camera file is unknown, of the wrong type or out of range."""


class SourceError(ProgeoError):
    """A source of frames is missing, empty or of a layout that is not understood."""


class ModelError(ProgeoError):
    """A bundle or an encoder cannot be used: missing, altered, or not what its manifest says."""


class MapError(ProgeoError):
    """A map cannot be used: not a map, damaged, of another model, of a newer schema, or not writable."""


class InputError(ProgeoError, ValueError):
    """An array handed to the library has a wrong shape, type or value."""


class CalibrationError(ProgeoError):
    """There is too little to learn a threshold from, or it does not tell places apart."""
