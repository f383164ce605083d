"""The pose graph and its closures as files, for offline use: g2o, GTSAM, spreadsheets."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from progeo_edge.back_ends import rotation_vector_information
from progeo_edge.errors import ConfigError, ProgeoError
from progeo_edge.map_store import MapStore
from progeo_edge.outputs import closure_record, write_closures_csv, write_g2o
from progeo_ros.adapters import Action, Counters, Subscription
from progeo_ros.config import NodeConfig
from progeo_ros.events import Outcome
from progeo_ros.message_types import NANOSECONDS

log = logging.getLogger(__name__)

G2O, GTSAM, CLOSURES = "graph.g2o", "graph_gtsam.g2o", "closures.csv"
MAX_SHARE = 0.05
"""Share of the time that may be spent on writing; files of a large map are written less often."""


class Recorder:
    """Adapter `recorder`; see docs/adapters.md.

    The files are made from the map, which has everything that was acknowledged, also from before a restart; nothing is
    kept in memory between two writes. A large map takes seconds, so they are written in a thread of their own.

    Raises:
        ConfigError: the folder cannot be made.
    """

    name = "recorder"
    required_types: tuple[str, ...] = ()

    def __init__(self, config: NodeConfig, map_path: Path) -> None:
        self._map_path = map_path
        self._folder = Path(config.recorder.folder) if config.recorder.folder else default_folder(map_path)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"recorder.folder {self._folder} cannot be made: {error.strerror or error}; choose another"
            ) from error
        self._every_ns = round(config.recorder.every_s * NANOSECONDS)
        self._thread: threading.Thread | None = None
        self._took_s = 0.0
        self._began_ns: int | None = None
        self._has_news = False
        self._counters = Counters()

    def subscriptions(self) -> tuple[Subscription, ...]:
        """Nothing is listened to."""
        return ()

    def on_outcome(self, outcome: Outcome) -> Iterable[Action]:
        """Note that the map has grown."""
        if outcome.update.keyframe is not None:
            self._has_news = True
        return []

    def on_tick(self, now_ns: int) -> Iterable[Action]:
        """Begin to write the files anew, when it is time and there is something new."""
        if self._began_ns is None or now_ns < self._began_ns:  # also when simulated time jumps back
            self._began_ns = now_ns
        pause_ns = max(self._every_ns, round(self._took_s / MAX_SHARE * NANOSECONDS))
        is_free = self._thread is None or not self._thread.is_alive()
        if self._has_news and is_free and now_ns - self._began_ns >= pause_ns:
            self._began_ns = now_ns
            self._thread = threading.Thread(target=self._write, name="progeo recorder")
            self._thread.start()
        return []

    def finish_writing(self) -> None:
        """Wait until a write that is under way has ended."""
        if self._thread is not None:
            self._thread.join()

    def counters(self) -> Mapping[str, int]:
        """How often the files were written, or could not be."""
        return dict(self._counters.values)

    def close(self) -> None:
        """Write what is new, and return when it is written."""
        self.finish_writing()
        if self._has_news:
            self._write()

    def _write(self) -> None:
        """A disk that is full now may have space later, so a failure is counted and said."""
        started_s = time.perf_counter()
        self._has_news = False  # before the map is read: what comes meanwhile is news
        try:
            write_graph_files(self._map_path, self._folder)
        except (ProgeoError, OSError) as error:
            self._has_news = True
            self._counters.add("failed")
            log.warning("recorder: %s was not written: %s", self._folder, error)
        else:
            self._counters.add("written")
        self._took_s = time.perf_counter() - started_s


def default_folder(map_path: Path) -> Path:
    """Beside the map, named after it: "drive.progeo" to "drive.graph"."""
    return map_path.with_suffix(".graph")


def write_graph_files(map_path: Path, folder: Path) -> None:
    """Write graph.g2o, graph_gtsam.g2o and closures.csv, each whole or not at all.

    Raises:
        MapError: the map cannot be read.
        InputError: a pose that is not rigid, or a covariance that is not positive definite.
        OSError: the folder cannot be written.
    """
    with MapStore.open(map_path, read_only=True) as store:
        infos, closures = store.infos(), store.closures()
    write_g2o(folder / G2O, infos, closures)
    write_g2o(folder / GTSAM, infos, closures, information=rotation_vector_information)
    keyframes = {info.id: info for info in infos}
    write_closures_csv(folder / CLOSURES, [closure_record(closure, keyframes) for closure in closures])
