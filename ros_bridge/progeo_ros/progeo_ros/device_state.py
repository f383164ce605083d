"""What the kernel and nvpmodel say of the computer: memory of this process, temperatures, throttling, power mode.

Linux only, no root.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

SYS = Path("/sys")
PROC = Path("/proc")
ROOT = Path("/")

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


def power_mode(root: Path = ROOT) -> str:
    """Power mode of a Jetson, as "MODE_15W (2)"; "" where nvpmodel keeps none, as on every other computer.

    From the files in which nvpmodel keeps the mode ("pmode:0002") and its names ("< POWER_MODEL ID=2 NAME=MODE_15W >"):
    `nvpmodel -q` says the same, but asks for root on some releases and is missing in containers.
    """
    try:
        status = (root / "var" / "lib" / "nvpmodel" / "status").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    found = re.search(r"pmode:(\d+)", status)
    if found is None:
        return ""
    number = int(found[1])
    name = _power_mode_names(root).get(number)
    return str(number) if name is None else f"{name} ({number})"


def _power_mode_names(root: Path) -> dict[int, str]:
    try:
        text = (root / "etc" / "nvpmodel.conf").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return {}
    return {int(number): name for number, name in re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", text, re.M)}
