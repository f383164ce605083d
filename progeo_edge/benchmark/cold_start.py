"""From nothing to the first descriptor: a fresh process imports, loads, encodes, and says how long each took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import progeo_edge
from progeo_edge.benchmark.series import SeriesBook
from progeo_edge.benchmark.steps import Steps, silent
from progeo_edge.errors import ModelError
from progeo_edge.types import Image

TIMEOUT_S = 600.0

# What a user's own program would do, and nothing more. CLOCK_MONOTONIC is one clock for all processes of a machine.
_CHILD = """
import sys, time
begun = time.monotonic()
import numpy
from progeo_edge import load_encoder
imported = time.monotonic()
def resident_mb():
    import os
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return None
import_mb = resident_mb()
import json
path, options, image = json.loads(sys.argv[1])
image = numpy.load(image, allow_pickle=False)
ready = time.monotonic()
encoder = load_encoder(path, **options)
loaded = time.monotonic()
load_mb = resident_mb()
before = time.monotonic()
encoder.encode([image])
done = time.monotonic()
print("COLD-START " + json.dumps({
    "begun": begun, "import_ms": (imported - begun) * 1e3, "load_ms": (loaded - ready) * 1e3,
    "first_ms": (done - before) * 1e3, "done": done,
    "import_mb": import_mb, "load_mb": load_mb, "first_mb": resident_mb(),
}))
"""

PARTS = {
    "interpreter": "start of Python itself",
    "import": "import numpy and progeo_edge.load_encoder",
    "load": "load_encoder",
    "first": "the first image",
    "total": "from the start of the process to the first descriptor",
}


def measure_cold_start(
    encoder: str,
    image: Image,
    book: SeriesBook,
    *,
    repeats: int,
    options: Mapping[str, Any] | None = None,
    steps: Steps = silent,
) -> None:
    """Start fresh processes one after another; every repeat is a round of the series "cold_start.*" and "resident.*".

    The files come from the page cache of the system, which only root can empty: it is the start after a crash, not
    after power-on. The first process is not counted, since it fills that cache.

    Args:
        encoder: As for `load_encoder`.
        image: (H, W, 3) BGR uint8, encoded as the first one.
        book: Takes the series.
        repeats: Processes counted, at least 1.
        options: Keyword arguments for `load_encoder`, plain JSON.
        steps: Told of every process.

    Raises:
        ModelError: a process failed; its last line is in the message.
    """
    tick = steps("cold starts", repeats + 1)
    with tempfile.TemporaryDirectory() as folder:
        image_file = Path(folder) / "image.npy"
        np.save(image_file, image, allow_pickle=False)
        # A relative folder means the same in the child, which starts in the same place.
        argument = json.dumps([encoder, dict(options or {}), str(image_file)])
        for repeat in range(repeats + 1):
            figures = _start_once(argument, encoder)
            if repeat:
                _record(figures, book)
            tick()


def _start_once(argument: str, encoder: str) -> dict[str, float | None]:
    package = str(Path(progeo_edge.__file__).parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    started = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, argument],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"a fresh process did not encode an image with {encoder} within {TIMEOUT_S:.0f} s; build its engine first "
            "with progeo-export, or leave cold starts out with --cold-starts 0"
        ) from error
    lines = [line for line in done.stdout.splitlines() if line.startswith("COLD-START ")]
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ModelError(f"a fresh process could not encode an image with {encoder}: {last}")
    figures: dict[str, float | None] = json.loads(lines[-1].removeprefix("COLD-START "))
    begun, ended = figures["begun"], figures["done"]
    assert begun is not None and ended is not None
    return {**figures, "interpreter_ms": (begun - started) * 1e3, "total_ms": (ended - started) * 1e3}


def _record(figures: dict[str, float | None], book: SeriesBook) -> None:
    for part in PARTS:
        value = figures[f"{part}_ms"]
        assert value is not None
        book.add_round(f"cold_start.{part}", [value])
    for name, key in (("after_import", "import_mb"), ("after_load", "load_mb"), ("after_first", "first_mb")):
        resident = figures[key]
        if resident is not None:
            book.add_round(f"resident.{name}", [resident], "MB")
