"""Memory of this process, read when a benchmark asks for it."""

from __future__ import annotations

from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_mb() -> float | None:
    """Resident memory in MB (10^6 bytes), shared libraries included; None where the system does not say."""
    return _field_mb("VmRSS")


def own_mb() -> float | None:
    """Resident memory that no file stands behind, in MB (10^6 bytes); None where the system does not say."""
    return _field_mb("RssAnon")


def _field_mb(name: str) -> float | None:
    if not _STATUS.exists():
        return None
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None
