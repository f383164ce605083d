"""What a run tells while it trains: metrics.jsonl, TensorBoard, progress bars.

Only the first process writes; the others hold a `SilentLog`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from progeo_edge import atomic
from progeo_edge.cli.console import progress

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch.utils.tensorboard import SummaryWriter

METRICS_NAME = "metrics.jsonl"
TENSORBOARD_NAME = "tensorboard"

_log = logging.getLogger(__name__)


class Log(Protocol):
    """Where the loops report."""

    def start_at(self, step: int) -> None:
        """Forget what was reported after `step`, from which the run continues; 0 forgets everything."""
        ...

    def scalars(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Report numbers.

        Args:
            stage: What they belong to, such as "stage2" or "validation".
            step: Steps done since the start of the run.
            values: By name.
        """
        ...

    def picture(self, tag: str, step: int, image: NDArray[np.uint8]) -> None:
        """Report an (H, W, 3) uint8 RGB picture."""
        ...

    def close(self) -> None:
        """Write what is held back; nothing may be reported afterwards."""
        ...


class SilentLog:
    """A `Log` that keeps nothing, for all processes but the first."""

    def start_at(self, step: int) -> None:
        """Nothing."""

    def scalars(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def picture(self, tag: str, step: int, image: NDArray[np.uint8]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class RunLog:
    """A `Log` into `metrics.jsonl` and `tensorboard/` of a folder.

    Each line of metrics.jsonl is an object with "stage", "step" and the reported values, null for what is not finite.
    It holds no clock times, so that a run that was killed and continued leaves the file of one that was not. Files are
    opened at the first call; without `start_at` before it, what is there is continued.

    Args:
        folder: Of one stage; exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._metrics: TextIO | None = None
        self._tensorboard: SummaryWriter | None = None

    def start_at(self, step: int) -> None:
        """Cut off what was reported after `step`, and a last line that a kill has torn."""
        self.close()
        metrics = self._folder / METRICS_NAME
        if metrics.is_file():
            atomic.write_text(metrics, "".join(_lines_up_to(metrics, step)))
        self._open(purge_step=step + 1)

    def scalars(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Append a line and a point per value."""
        metrics, tensorboard = self._open()
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        metrics.write(json.dumps({"stage": stage, "step": step, **finite}) + "\n")
        metrics.flush()
        for name, value in values.items():
            tensorboard.add_scalar(f"{stage}/{name}", value, step)

    def picture(self, tag: str, step: int, image: NDArray[np.uint8]) -> None:
        """Show an (H, W, 3) uint8 RGB picture in TensorBoard."""
        _, tensorboard = self._open()
        tensorboard.add_image(tag, image, step, dataformats="HWC")

    def close(self) -> None:
        """Close the files."""
        if self._metrics is not None:
            self._metrics.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        self._metrics = self._tensorboard = None

    def _open(self, purge_step: int | None = None) -> tuple[TextIO, SummaryWriter]:
        if self._metrics is None or self._tensorboard is None:
            from torch.utils.tensorboard import SummaryWriter

            self._metrics = (self._folder / METRICS_NAME).open("a", encoding="utf-8")
            self._tensorboard = SummaryWriter(str(self._folder / TENSORBOARD_NAME), purge_step=purge_step)
        return self._metrics, self._tensorboard


def _lines_up_to(path: Path, step: int) -> Iterator[str]:
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            done = json.loads(line)["step"] <= step
        except (ValueError, TypeError, KeyError):
            _log.warning("line %d of %s is torn and dropped", number, path)
            continue
        if done:
            yield line + "\n"


def training_progress(shown: bool = True) -> Progress:
    """The progress bar of all commands, counting images.

    Args:
        shown: False for all processes but the first.
    """
    bar = progress("images")
    bar.disable = bar.disable or not shown
    return bar
