"""What the kernel says of the computer: memory of this process, temperatures, throttling. Linux only, no root."""

from __future__ import annotations

import os
from pathlib import Path

SYS = Path("/sys")
PROC = Path("/proc")

_PROCESSORS = ("processor", "cpu", "gpu", "devfreq")
"""Cooling devices of these types work by slowing something down; fans do not."""


def resident_mb(proc: Path = PROC) -> float | None:
    """Resident memory of this process in MB; None where /proc does not say."""
    try:
        pages = int((proc / "self" / "statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def temperatures_c(sys: Path = SYS) -> dict[str, float]:
    """Temperature of every thermal zone in degrees Celsius, by its type; a zone that is switched off is left out."""
    found = {}
    for zone in sorted((sys / "class" / "thermal").glob("thermal_zone*")):
        try:
            kind = (zone / "type").read_text(encoding="utf-8").strip()
            found[kind] = int((zone / "temp").read_text(encoding="ascii")) / 1000.0
        except (OSError, ValueError):
            continue
    return found


def throttled(sys: Path = SYS) -> list[str]:
    """Types of processors that are slowed down because they are hot."""
    found = []
    for device in sorted((sys / "class" / "thermal").glob("cooling_device*")):
        try:
            kind = (device / "type").read_text(encoding="utf-8").strip()
            state = int((device / "cur_state").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        if state > 0 and any(word in kind.lower() for word in _PROCESSORS):
            found.append(kind)
    return found
