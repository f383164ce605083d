"""The parent's end of a peer: starts its process, asks, and says why when there is no answer."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from numpy.typing import NDArray

from progeo_edge.benchmark.peers.peer import unpack

WORKER = "progeo_edge.benchmark.peers.worker"
ANSWER_TIMEOUT_S = 120.0
"""No step of a benchmark takes this long; a peer that does hangs."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class PeerGoneError(Exception):
    """A peer is absent, has failed or hangs; the message says why. It is listed with the results, never hidden."""


class PeerProcess:
    """A peer in a process of its own, so that thread pools, memory and imports do not disturb the others.

    Args:
        target: "module:Class" of the peer.
        settings: For the peer, plain JSON.
        threads: That its numeric libraries may use; also given to the peer as settings["threads"].
        ready_timeout_s: How long it may take to open.

    Attributes:
        facts: What the peer says of itself.
        steps: Names of the steps it can do.

    Raises:
        PeerGoneError: it is absent, fails while opening, or is not ready in time.
    """

    def __init__(
        self, target: str, settings: Mapping[str, Any], *, threads: int, ready_timeout_s: float = 600.0
    ) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._unread = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", WORKER, target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment(threads),
        )
        try:
            self._write({**settings, "threads": threads})
            opened = self._read(ready_timeout_s)
            if "absent" in opened:
                raise PeerGoneError(str(opened["absent"]))
        except BaseException:
            self.close()
            raise
        self.facts: dict[str, Any] = opened["facts"]
        self.steps: tuple[str, ...] = tuple(opened["steps"])

    def times_ms(self, step: str, items: Sequence[int]) -> list[float]:
        """Milliseconds of one step for each item, measured inside the peer's process."""
        times: list[float] = self._ask({"do": "time", "step": step, "items": list(items)})["times_ms"]
        return times

    def answers(self, step: str, items: Sequence[int]) -> list[NDArray[Any]]:
        """What one step gives for each item."""
        return [unpack(one) for one in self._ask({"do": "answer", "step": step, "items": list(items)})["answers"]]

    def memory(self) -> dict[str, float | None]:
        """Of its process now: "resident_mb", and "own_mb" without what files stand behind; None where unknown."""
        return self._ask({"do": "memory"})

    def close(self) -> None:
        """End the process. Twice is fine."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):  # it has ended before reading what was left for it
                self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._stderr.close()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._write(request)
        return self._read(ANSWER_TIMEOUT_S)

    def _write(self, content: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(content).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise PeerGoneError(self._last_words()) from error

    def _read(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        stop = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, stop - time.monotonic()))
            if not ready:
                raise PeerGoneError(f"it gave no answer in {timeout_s:g} s")
            part = os.read(self._process.stdout.fileno(), 1 << 20)
            if not part:
                raise PeerGoneError(self._last_words())
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        content: dict[str, Any] = json.loads(line)
        return content

    def _last_words(self) -> str:
        self._process.wait()
        self._stderr.seek(0)
        return last_words(self._process.returncode, self._stderr.read().decode(errors="replace"))


def last_words(code: int, stderr: str) -> str:
    """What a process left behind: its exit code, and the line that names the error, the last that is not indented."""
    lines = [line for line in stderr.splitlines() if line.strip() and not line[0].isspace()]
    return f"its process ended with code {code}" + (f": {lines[-1]}" if lines else "")


def environment(threads: int) -> dict[str, str]:
    """This process's environment with the threads of numeric libraries set."""
    return {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}
