"""Several settings over one source, each judged against the same truth: what caution costs, and what it buys."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.bundle import ModelSpec
from progeo_edge.config import PROFILES, Config, load_config
from progeo_edge.detector import LoopDetector
from progeo_edge.encoders import Encoder
from progeo_edge.errors import ConfigError
from progeo_edge.evaluation.labels import Matches
from progeo_edge.evaluation.loops import judge_loops
from progeo_edge.evaluation.loops_result import LoopsResult
from progeo_edge.evaluation.recorded_run import read_run
from progeo_edge.evaluation.true_poses import TruePoses
from progeo_edge.run_folder import finish_run, open_run_folder
from progeo_edge.runner import Observer, run
from progeo_edge.sources.base import Source
from progeo_edge.types import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to set up the detector.

    Attributes:
        name: For the table, the plot and the folder of its run.
        config: All its settings.
        is_profile: A shipped profile, as against a step of a sweep.
    """

    name: str
    config: Config
    is_profile: bool


@dataclass(frozen=True, slots=True)
class JudgedVariant:
    """A variant and what it reached.

    Attributes:
        variant: Which.
        result: Its run, judged.
        on_front: No other variant has at least its recall with fewer false closures, or more recall with as few.
    """

    variant: Variant
    result: LoopsResult
    on_front: bool = False

    @property
    def recall(self) -> float:
        """Share of the revisits recognised."""
        return self.result.recall.value or 0.0

    @property
    def num_false(self) -> int:
        """Wrong closures."""
        return len(self.result.false_closures)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the curves, which are the same for all."""
        record = self.result.to_dict()
        del record["curves"]
        return {
            "name": self.variant.name,
            "is_profile": self.variant.is_profile,
            "on_front": self.on_front,
            "config": self.variant.config.model_dump(),
            **record,
        }


def variants(
    profiles: Sequence[str] = tuple(PROFILES), sweep: str | None = None, overrides: Sequence[str] = ()
) -> list[Variant]:
    """The profiles, then the first of them with one setting moved.

    Args:
        profiles: Names of profiles.
        sweep: Such as "verification.min_inliers=15,30,60"; None for none.
        overrides: Settings of all variants, as "section.name=value".

    Raises:
        ConfigError: an unknown profile or setting, no profile, or a sweep without values.
    """
    if not profiles:
        raise ConfigError(f"no profile given; choose from {', '.join(PROFILES)}")
    defaults = {"budget": {"deadline_ms": 0.0}}  # without a deadline the same input gives the same closures
    found = [Variant(p, load_config(profile=p, overrides=overrides, defaults=defaults), True) for p in profiles]
    for assignment in _steps(sweep):
        config = load_config(profile=profiles[0], overrides=(*overrides, assignment), defaults=defaults)
        found.append(Variant(assignment, config, False))
    return found


def _steps(sweep: str | None) -> list[str]:
    if sweep is None:
        return []
    name, _, values = sweep.partition("=")
    steps = [f"{name.strip()}={value.strip()}" for value in values.split(",") if value.strip()]
    if not name.strip() or not steps:
        raise ConfigError(f"sweep {sweep!r} is not understood; expected such as verification.min_inliers=15,30,60")
    return steps


def compare(
    open_source: Callable[[], Source],
    encoder: Encoder,
    truth: Matches | TruePoses,
    chosen: Sequence[Variant],
    out_dir: Path,
    *,
    force: bool = False,
    observers: Callable[[Variant], tuple[Observer, ...]] = lambda _: (),
    seed: int = 0,
) -> list[JudgedVariant]:
    """Run every variant over the source, and judge each.

    Args:
        open_source: Opens it anew for each variant.
        encoder: Describes every image once, whatever the number of variants.
        truth: Labels or true poses.
        chosen: From `variants`.
        out_dir: Gets one folder per variant, as of `progeo-run`.
        force: Replace earlier results there.
        observers: Of each run.
        seed: Of the bootstrap.

    Raises:
        SourceError: the source gave no frame, truth and source do not meet, or results are there already.
    """
    remembering = _Remembering(encoder)
    judged = []
    for variant in chosen:
        folder = out_dir / variant.name.replace("=", "_")
        source = open_source()
        with open_run_folder(folder, encoder.spec, variant.config, force=force) as map_store:
            detector = LoopDetector(remembering, map_store, source.camera, variant.config, session=source.name)
            run(source, detector, folder, observers=observers(variant))
            detector.close()
            finish_run(folder, map_store)
        judged.append(JudgedVariant(variant, judge_loops(read_run(folder), truth, seed=seed)))
    return _with_front(judged)


def draw_variants(axes: Axes, judged: Sequence[JudgedVariant]) -> None:
    """Recall over false closures per hour (over their number where there is no time), with the Pareto front.

    The horizontal axis is logarithmic above 1, so that zero has its place beside hundreds.
    """
    per_hour = all(one.result.rates is not None for one in judged)
    points = []
    for number, one in enumerate(judged):
        recall, rates = one.result.recall, one.result.rates
        x, below, above = float(one.num_false), 0.0, 0.0
        if per_hour and rates is not None:
            after = rates.after_geometry
            x, below, above = after.per_hour, after.per_hour - after.low, after.high - after.per_hour
        y = 100 * one.recall
        low, high = y - 100 * (recall.low or 0.0), 100 * (recall.high or 0.0) - y
        axes.errorbar(
            x,
            y,
            xerr=([below], [above]),
            yerr=([low], [high]),
            fmt="s" if one.variant.is_profile else "o",
            ms=8,
            color=f"C{number % 10}",
            lw=0.8,
            capsize=2,
            label=f"{one.variant.name}: {y:.0f} % at {x:.3g}" + (", on the front" if one.on_front else ""),
        )
        points.append((x, y))
    front = sorted(point for point, one in zip(points, judged, strict=True) if one.on_front)
    axes.step(*zip(*front, strict=True), where="post", color="#1f2933", lw=1.2, zorder=0)
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlim(left=-0.2)
    axes.set_xlabel("false closures per hour" if per_hour else "false closures")
    axes.set_ylabel(f"recall in percent of {judged[0].result.num_revisits} revisits")
    axes.set_title("squares: shipped profiles; bars: 95 % intervals; line: Pareto front")
    axes.legend(loc="best", fontsize=8)


def _with_front(judged: Sequence[JudgedVariant]) -> list[JudgedVariant]:
    """Mark those that none other dominates (Pareto)."""
    result = []
    for one in judged:
        dominated = any(
            other.recall >= one.recall
            and other.num_false <= one.num_false
            and (other.recall, other.num_false) != (one.recall, one.num_false)
            for other in judged
        )
        result.append(JudgedVariant(one.variant, one.result, not dominated))
    return result


class _Remembering:
    """Describes an image once and remembers it; variants differ in what they do with descriptors."""

    def __init__(self, encoder: Encoder) -> None:
        self.spec: ModelSpec = encoder.spec
        self._encoder = encoder
        self._known: dict[bytes, NDArray[np.float32]] = {}

    def encode(self, images: Sequence[Image]) -> NDArray[np.float32]:
        keys = [hashlib.blake2b(np.ascontiguousarray(image).tobytes()).digest() for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self._known}
        if new:
            self._known.update(zip(new, self._encoder.encode(list(new.values())), strict=True))
        return np.stack([self._known[key] for key in keys])

    def close(self) -> None:
        """The encoder belongs to the caller."""
