"""How the node is doing: counts, times, reasons, and what a user should mend, as one DiagnosticStatus."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from progeo_edge.bundle import MANIFEST_NAME, NOT_TRAINED, read_manifest
from progeo_edge.errors import ModelError
from progeo_edge.types import Status
from progeo_ros.assembled import Assembler
from progeo_ros.config import NodeConfig
from progeo_ros.device_state import power_mode, resident_mb, temperatures_c, throttled
from progeo_ros.events import Outcome
from progeo_ros.message_types import NANOSECONDS, MessageTypes, make_header
from progeo_ros.neighbour_similarity import NeighbourSimilarity

OK, WARN, ERROR = 0, 1, 2
"""Levels of diagnostic_msgs/DiagnosticStatus."""

WINDOW_NS = 10 * NANOSECONDS
"""Rates and shares are of this long."""
NUM_TIMES = 300
"""Outcomes that percentiles are of."""
MAX_DROP_SHARE = 0.10
MAX_SKEW_S = 5.0
SLOWED = 0.5
"""A camera that gives less than this share of its best rate is throttled, or exposes long in the dark."""
MIN_RATE_SPAN_S = 5.0


class Health:
    """Collects what diagnostics say. Its methods are cheap; the caller locks.

    All times are of the node's clock (simulated time included), in nanoseconds.

    Attributes:
        state: Of the node: "active", "inactive", "paused".
        facts: Further keys and values that only the node knows: model, engine, map, index, GPU memory.
        errors: Lasting conditions that stop the work, by a key: a map of another model. The node sets and removes them.
        warnings: Lasting conditions that spoil it.
    """

    def __init__(self, config: NodeConfig) -> None:
        self.state = "active"
        self.facts: dict[str, str] = {}
        self.errors: dict[str, str] = {}
        self.warnings: dict[str, str] = {}
        self._config = config
        self._counts: dict[str, int] = {}
        self._problems: list[str] = []
        self._waiting_for = ""
        self._last_problem = ""
        self._has_camera = False
        self._dropped_busy = 0
        self._queue_age_s = 0.0
        self._adapters: dict[str, dict[str, int]] = {}
        self._first_ns: int | None = None
        self._image_ns: int | None = None
        self._skew_s = float("nan")
        self._error_ns: int | None = None
        self._error = ""
        self._num_errors = 0
        self._is_frozen = False
        self._num_processed = 0
        self._num_keyframes = 0
        self._num_closures = self._num_doubtful = 0
        self._closure_stamp_ns: int | None = None
        self._neighbours = NeighbourSimilarity()
        self._frames: Counter[Status] = Counter()
        self._candidates: Counter[Status] = Counter()
        self._times: deque[dict[str, float]] = deque(maxlen=NUM_TIMES)
        self._window: deque[tuple[int, int, int, int]] = deque()
        self._best_rate_hz = 0.0
        if problem := model_problem(config.model.path):
            self.warnings["model"] = problem

    # -- what happens --------------------------------------------------------------------------------------------------

    def note_image(self, stamp_ns: int, now_ns: int) -> None:
        """An image arrived."""
        self._image_ns = now_ns
        self._skew_s = (now_ns - stamp_ns) * 1e-9

    def note_outcome(self, outcome: Outcome) -> None:
        """An image was processed."""
        update = outcome.update
        self._num_processed += 1
        if update.keyframe is not None:
            self._num_keyframes += 1
            self._neighbours.note(update.keyframe)
        self._num_closures += len(outcome.closures)
        self._num_doubtful += len(update.doubtful)
        self._frames[update.status] += 1
        self._is_frozen = update.status is Status.FROZEN
        self._candidates.update(candidate.status for candidate in update.candidates)
        self._times.append({**update.timings_ms, "latency": outcome.latency_ms})
        if update.closures:
            self._closure_stamp_ns = outcome.frame.stamp_ns

    def warn(self, key: str, sentence: str) -> None:
        """Note a lasting condition that spoils the work; "" when it is over."""
        if sentence:
            self.warnings[key] = sentence
        else:
            self.warnings.pop(key, None)

    def note_error(self, sentence: str, now_ns: int) -> None:
        """An image could not be processed; diagnostics warn for 10 s."""
        self._num_errors += 1
        self._error, self._error_ns = sentence, now_ns

    def observe(
        self,
        assembler: Assembler,
        now_ns: int,
        *,
        dropped_busy: int = 0,
        queue_age_s: float = 0.0,
        adapters: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """Take over what others count; about once a second, before `diagnostics_message`.

        Args:
            assembler: Of the frames.
            now_ns: Time.
            dropped_busy: Images that a newer one replaced while the worker was busy, so far.
            queue_age_s: How long the image that waits for the worker has waited.
            adapters: Counters of each adapter, by its name.
        """
        self._counts = assembler.counts.as_dict()
        self._problems = assembler.problems
        self._waiting_for = assembler.waiting_for
        self._last_problem = assembler.last_problem
        self._has_camera = assembler.has_camera
        self._dropped_busy, self._queue_age_s = dropped_busy, queue_age_s
        self._adapters = {name: dict(counts) for name, counts in (adapters or {}).items()}
        dropped = dropped_busy + self._counts["dropped_by_newer"]
        self._slide((now_ns, self._counts["received"], dropped, self._num_processed))

    def _slide(self, sample: tuple[int, int, int, int]) -> None:
        if self._window and sample[0] < self._window[-1][0]:  # the clock was set back
            self._window.clear()
            self._image_ns = self._first_ns = self._error_ns = None
        self._window.append(sample)
        while len(self._window) > 2 and self._window[1][0] <= sample[0] - WINDOW_NS:
            self._window.popleft()
        rate_hz, span_s = self._rates()[0], self._span_s()
        if span_s >= MIN_RATE_SPAN_S:
            self._best_rate_hz = max(self._best_rate_hz, rate_hz)

    # -- what is said ------------------------------------------------------------------------------------------------

    def verdict(self, now_ns: int) -> tuple[int, str]:
        """Level, and the sentences that explain it, worst first."""
        if self._first_ns is None:
            self._first_ns = now_ns
        warnings = [*self._image_warnings(now_ns), *self._load_warnings(), *self._problems, *self.warnings.values()]
        if self._error_ns is not None and now_ns - self._error_ns < WINDOW_NS:
            warnings.insert(0, self._error)
        if self.errors:
            return ERROR, "; ".join([*self.errors.values(), *warnings])
        if warnings:
            return WARN, "; ".join(warnings)
        return OK, f"{self.state}: {self._num_keyframes} keyframes, {self._num_closures} loop closures"

    def values(self, now_ns: int) -> dict[str, str]:
        """Every key of the DiagnosticStatus that is known."""
        received_hz, dropped_hz, used_hz = self._rates()
        result = {"state": self.state, **self.facts}
        result["waiting for"] = self._waiting_for or "nothing"
        if self._image_ns is not None:
            result["last image (s ago)"] = f"{(now_ns - self._image_ns) * 1e-9:.2f}"
            result["clock skew of images (s)"] = f"{self._skew_s:.3f}"
        result |= {
            "images received (Hz)": f"{received_hz:.2f}",
            "images used (Hz)": f"{used_hz:.2f}",
            "images dropped, too slow (Hz)": f"{dropped_hz:.2f}",
            "images processed": str(self._num_processed),
            "images dropped, worker busy": str(self._dropped_busy),
            "errors": str(self._num_errors),
            "queue age (ms)": f"{1000 * self._queue_age_s:.1f}",
        }
        result |= {f"images {name.replace('_', ' ')}": str(count) for name, count in self._counts.items()}
        if self._last_problem:
            result["last broken image"] = self._last_problem
        result |= self._percentiles()
        result |= {
            "keyframes of this run": str(self._num_keyframes),
            "loop closures": str(self._num_closures),
            "loop closures in doubt": str(self._num_doubtful),
            "candidates": str(self._candidates.total()),
            **self._neighbours.facts(),
        }
        if self._closure_stamp_ns is not None:
            result["last loop closure (image stamp, s)"] = f"{self._closure_stamp_ns * 1e-9:.3f}"
        result |= {f"images {status.value}": str(count) for status, count in sorted(self._frames.items())}
        result |= {f"candidates {status.value}": str(count) for status, count in sorted(self._candidates.items())}
        for adapter, counts in self._adapters.items():
            result |= {f"{adapter} {name}": str(count) for name, count in counts.items()}
        return result | _of_device()

    def _image_warnings(self, now_ns: int) -> list[str]:
        if self.state != "active":
            return []
        warnings = []
        stale_s = self._config.input.stale_s
        since = self._image_ns if self._image_ns is not None else self._first_ns
        silent_s = (now_ns - (now_ns if since is None else since)) * 1e-9
        if silent_s > stale_s:
            never = "none has come since the start" if self._image_ns is None else f"the last came {silent_s:.1f} s ago"
            warnings.append(f"no image ({never}): check the topic's name, its publisher and QoS")
        elif self._best_rate_hz > 0 and self._span_s() >= MIN_RATE_SPAN_S:
            rate_hz = self._rates()[0]
            if rate_hz < SLOWED * self._best_rate_hz:
                warnings.append(
                    f"the camera gives {rate_hz:.1f} images/s, it gave {self._best_rate_hz:.1f}: throttled, or dark"
                )
        if self._image_ns is not None and not self._has_camera and not any("camera_info" in p for p in self._problems):
            warnings.append("no camera_info: closures have no pose; publish it beside the image, or set camera.file")
        if self._is_frozen:
            warnings.append("the camera gives the same picture over and over: restart its driver")
        if abs(self._skew_s) > MAX_SKEW_S:
            warnings.append(
                f"image stamps are {self._skew_s:.1f} s behind the node's clock: set use_sim_time with bags, or "
                f"synchronise the clocks"
            )
        return warnings

    def _load_warnings(self) -> list[str]:
        received_hz, dropped_hz, used_hz = self._rates()
        share = dropped_hz / (dropped_hz + used_hz) if dropped_hz + used_hz > 0 else 0.0
        warnings = []
        if share > MAX_DROP_SHARE:
            warnings.append(
                f"{100 * share:.0f} % of the images are dropped because processing takes too long: lower "
                f"input.max_rate_hz (images come at {received_hz:.1f} Hz)"
            )
        if hot := throttled():
            warnings.append(f"{', '.join(hot)} slowed down because of heat: cool the computer")
        return warnings

    def _span_s(self) -> float:
        return (self._window[-1][0] - self._window[0][0]) * 1e-9 if self._window else 0.0

    def _rates(self) -> tuple[float, float, float]:
        """Images per second over the window: received, dropped for lack of time, processed."""
        if self._span_s() <= 0:
            return 0.0, 0.0, 0.0
        first, last = self._window[0], self._window[-1]
        received, dropped, used = ((last[i] - first[i]) / self._span_s() for i in (1, 2, 3))
        return received, dropped, used

    def _percentiles(self) -> dict[str, str]:
        """50th, 95th and 99th percentile of each stage, in order of execution."""
        result = {}
        for stage in dict.fromkeys(stage for times in self._times for stage in times):
            values = [times[stage] for times in self._times if stage in times]
            result[f"{stage} p50/p95/p99 (ms)"] = " / ".join(f"{p:.1f}" for p in np.percentile(values, [50, 95, 99]))
        return result


def diagnostics_message(types: MessageTypes, health: Health, now_ns: int, name: str = "progeo") -> Any:  # noqa: ANN401
    """diagnostic_msgs/DiagnosticArray with one status.

    Args:
        types: Makes messages.
        health: After `observe`.
        now_ns: Time of the node's clock.
        name: Of the node.
    """
    level, sentence = health.verdict(now_ns)
    values = [types.make("diagnostic_msgs/msg/KeyValue", key=k, value=v) for k, v in health.values(now_ns).items()]
    status = types.make(
        "diagnostic_msgs/msg/DiagnosticStatus",
        level=level,
        name=f"{name}: place recognition",
        message=sentence,
        hardware_id=name,
        values=values,
    )
    return types.make("diagnostic_msgs/msg/DiagnosticArray", header=make_header(types, now_ns, ""), status=[status])


def model_problem(path: str) -> str:
    """Why a model should not be trusted, in one sentence: its bundle says that it was not trained for places."""
    folder = Path(path)
    if not (folder / MANIFEST_NAME).is_file():
        return ""
    try:
        notes = read_manifest(folder).notes
    except ModelError:
        return ""  # opening the model says what is wrong with it, and the node does not start
    if NOT_TRAINED not in notes:
        return ""
    return f"model {path} has stock or random weights, which were not trained for places: expect poor recall"


def _of_device() -> dict[str, str]:
    resident, mode = resident_mb(), power_mode()
    result = {} if resident is None else {"memory of the process (MB)": f"{resident:.0f}"}
    if mode:
        result["power mode (nvpmodel)"] = mode
    return result | {f"temperature {zone} (C)": f"{value:.1f}" for zone, value in temperatures_c().items()}
