"""From messages to outcomes: frames are put together, the newest goes through the recogniser, the rest is dropped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from progeo_ros.assembled import AssembledFrame, Assembler, Pending
from progeo_ros.events import Outcome
from progeo_ros.place_recogniser import PlaceRecogniser
from progeo_ros.relocalization import Answer, RelocalizationDesk
from progeo_ros.worker import LatestOnlyWorker

STOP_TIMEOUT_S = 10.0
"""How long `stop` waits for the image at work."""

R = TypeVar("R")


class Pipeline:
    """The same for every ROS. Callbacks stay light: an image is decoded in the worker, and only when its turn comes.

    With input.external_keyframes the SLAM system asked for each image, so a complete one waits in the assembler until
    the worker is free; otherwise a newer one takes its place. Its methods may be called from any thread.

    Args:
        assembler: Puts messages together to frames.
        recogniser: Says what became of a frame.
        emit: Called in the worker's thread with every outcome, after the map has acknowledged it.
        on_error: Called in the worker's thread with what went wrong with an image; the next one is worked on.
    """

    def __init__(
        self,
        assembler: Assembler,
        recogniser: PlaceRecogniser,
        emit: Callable[[Outcome], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self.recogniser = recogniser
        self.is_paused = False
        self._assembler = assembler
        self._each = recogniser.node_config.input.external_keyframes
        self._emit = emit
        self._on_error = on_error
        self._lock = threading.Lock()
        self._worker: LatestOnlyWorker[tuple[Pending, ...]] | None = None
        self._desk = RelocalizationDesk()
        self._at_work = False
        self._earlier_drops = 0

    def start(self) -> None:
        """Work on what comes from now on."""
        with self._lock:
            self._desk = RelocalizationDesk()
            self._at_work = self.is_paused = False
            self._worker = LatestOnlyWorker(self._work, self._on_error)

    def stop(self) -> bool:
        """Let the image at work finish and take no more. Those who wait for a pose are told. Twice is fine.

        Returns:
            Whether the worker has ended.
        """
        with self._lock:
            worker, self._worker = self._worker, None
        self._desk.close()
        if worker is None:
            return True
        self._earlier_drops += worker.drops
        return worker.stop(STOP_TIMEOUT_S)

    @property
    def is_running(self) -> bool:
        """Between `start` and `stop`."""
        return self._worker is not None

    def take(self, receive: Callable[..., object], *arguments: Any, **named: Any) -> None:  # noqa: ANN401
        """Hand a message to the assembler, and the frame that is complete by it to the worker.

        Args:
            receive: A method of one of the assembler's parts: `pipeline.take(part.on_image, message, arrival_ns)`.
            arguments: Of that method.
            named: Of that method.
        """
        with self._lock:
            receive(*arguments, **named)
            self._submit_complete()

    def tick(self, now_ns: int) -> None:
        """Give up waiting for what is late, when no message comes that could end the wait.

        Args:
            now_ns: By the clock of the arrivals.
        """
        with self._lock:
            self._submit_complete(now_ns)

    def examine(self, look: Callable[[Assembler], R]) -> R:
        """Look at the assembler while no message comes in."""
        with self._lock:
            return look(self._assembler)

    @property
    def drops(self) -> int:
        """Frames that a newer one replaced before their turn came."""
        worker = self._worker
        return self._earlier_drops + (0 if worker is None else worker.drops)

    @property
    def queue_age_s(self) -> float:
        """How long the waiting frame has waited."""
        worker = self._worker
        return 0.0 if worker is None else worker.queue_age_s

    def relocalize(self, timeout_s: float) -> Answer:
        """Wait until images have made the place in the map certain, and known in metres."""
        if not self.is_running:
            return Answer("the node takes no images; activate it")
        if self.is_paused:
            return Answer("the node is paused; end the pause first")
        return self._desk.ask(timeout_s)

    def _submit_complete(self, now_ns: int | None = None) -> None:
        if self._worker is None or (self._each and self._at_work):
            return
        moment = self._assembler.pop_moment(now_ns)
        if moment and not self.is_paused:
            self._at_work = True
            self._worker.submit(moment)

    def _work(self, moment: tuple[Pending, ...]) -> None:
        try:
            for pending in moment:
                self._recognise(self._assembler.decode(pending))
        finally:
            if self._each:
                with self._lock:
                    self._at_work = False
                    self._submit_complete()

    def _recognise(self, assembled: AssembledFrame) -> None:
        outcome = ask(self.recogniser.process, assembled)
        self._emit(outcome)
        if self._desk.is_asked:
            relocalize = partial(self.recogniser.relocalize, anew=self._desk.is_new)
            self._desk.offer(ask(relocalize, assembled))


def ask(question: Callable[..., R], assembled: AssembledFrame) -> R:
    """Ask a recogniser about a frame: `ask(recogniser.process, assembled)`."""
    return question(
        assembled.frame,
        assembled.camera,
        camera_frame=assembled.camera_frame,
        base_frame=assembled.base_frame,
        odom_frame=assembled.odom_frame,
        generation=assembled.generation,
        arrival_ns=assembled.arrival_ns,
    )
