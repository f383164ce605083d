"""TensorRT versions that are known to fail or to compute wrongly; the golden images judge, this only warns before."""

from __future__ import annotations

import re
from dataclasses import dataclass

from progeo_edge.bundle import Precision

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KnownBad:
    """Versions from `first` up to and including `last` (compared on as many numbers as they have).

    Attributes:
        first: First bad version.
        last: Last bad version.
        reason: What goes wrong, where it was reported, and what to do.
        compute_capability: Only on these GPUs; None on all.
        precision: Only engines of this precision; None for all.
    """

    first: Version
    last: Version
    reason: str
    compute_capability: tuple[int, int] | None = None
    precision: Precision | None = None


KNOWN_BAD = (
    KnownBad(
        (10, 2, 0),
        (10, 2, 0),
        "it is known for wrong results, and other projects refuse it; use the version of your JetPack, or a newer one",
    ),
    KnownBad(
        (10, 13, 3),
        (10, 13, 3),
        "it holds no code for compute capability 8.7 (Orin) and will not build (NVIDIA-ISAAC-ROS/isaac-ros-cli#22); "
        "use the TensorRT that came with JetPack",
        compute_capability=(8, 7),
    ),
    KnownBad(
        (10, 3),
        (10, 7),
        "open_clip models were compiled wrongly by 10.4 to 10.7 in FP32 (NVIDIA/TensorRT#4334, #4328), and 10.3 is "
        "suspected; if the golden images disagree, use the FP16 graph, or 10.8 or newer",
        precision="fp32",
    ),
)


def parse_version(text: str) -> Version:
    """The leading numbers of a version: "10.7.0.post1" gives (10, 7, 0)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def reasons_against(version: str, compute_capability: tuple[int, int], precision: Precision) -> list[str]:
    """Why this version should not be trusted on this GPU, one sentence each; empty when nothing is known."""
    return [
        f"TensorRT {version}: {bad.reason}"
        for bad in KNOWN_BAD
        if _covers(bad, parse_version(version))
        and bad.compute_capability in (None, compute_capability)
        and bad.precision in (None, precision)
    ]


def _covers(bad: KnownBad, version: Version) -> bool:
    return bad.first <= version[: len(bad.first)] and version[: len(bad.last)] <= bad.last
