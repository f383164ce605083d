"""From a bag to an mcap file and a map: opening everything, reading in order, and files that are whole or not there."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from progeo_edge.atomic import replacing
from progeo_edge.bundle import ModelSpec
from progeo_edge.config import Config
from progeo_edge.errors import SourceError
from progeo_edge.map_store import MapStore
from progeo_edge.sources.bag import is_bag
from progeo_edge.sources.bag_reader import Message, deserialize, opened, read_messages
from progeo_edge.sources.images import FrameError
from progeo_ros.adapters.opening import open_adapters
from progeo_ros.adapters.recorder import default_folder
from progeo_ros.config import NodeConfig
from progeo_ros.place_recogniser import PlaceRecogniser, open_encoder
from progeo_ros.replay.bag_writer import BagWriter, in_types
from progeo_ros.replay.session import ReplaySession
from progeo_ros.replay.topics import LEGACY_TF, TF, Inputs, choose_rig
from progeo_ros.rig_assembler import open_assembler
from progeo_ros.rosbags_types import RosbagsTypes

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

logger = logging.getLogger(__name__)

MAP_SUFFIX = ".progeo"
GRAPH = "graph"
"""Folder of the recorder's files in the working folder."""


@dataclass(frozen=True)
class ReplaySummary:
    """What a replay found.

    Attributes:
        image_topic: Where the images came from; several topics of a rig with commas between them.
        num_images: Images that were processed.
        num_keyframes: Those that were kept.
        num_closures: Loop closures.
        reasons: Why there was none, with the number of images, the most frequent first.
        topics: Messages written, by topic.
        notes: What a person should know: what was left out, and what was missing.
        written: Files.
    """

    image_topic: str
    num_images: int
    num_keyframes: int
    num_closures: int
    reasons: list[tuple[str, int]]
    topics: Mapping[str, int]
    notes: list[str]
    written: list[Path]


def run_replay(
    bag: Path,
    out: Path,
    node_config: NodeConfig,
    config: Config,
    *,
    remaps: Mapping[str, str],
    with_inputs: bool = False,
    force: bool = False,
    on_image: Callable[[int], object] = lambda total: None,
) -> ReplaySummary:
    """Run a whole bag through the node's conversions and detector.

    Args:
        bag: ROS 1 or ROS 2 bag.
        out: mcap file to write; the map goes beside it with the suffix .progeo, files of the recorder into a folder
            with the suffix .graph. A replay that is interrupted leaves nothing under these names.
        node_config: Settings of the node. `map.path` is a known map, if it exists; it is copied, and with
            `map.read_only` only asked.
        config: Settings of the detector.
        remaps: Topics by the node's names; those that are left out are found by their type.
        with_inputs: Write what was read too.
        force: Replace what an earlier replay wrote.
        on_image: Called with every image that is read, with their number.

    Raises:
        ProgeoError: with a sentence: the bag, its topics, the model, the map or the output cannot be used, or not one
            image could.
    """
    _check_paths(bag, out, force)
    with opened(bag) as reader, _working_folder(out) as folder:
        inputs = choose_rig(reader, bag, remaps, node_config)
        node_config, notes = _fitting(node_config, inputs, folder)
        recogniser = _open_recogniser(node_config, config, folder)
        types = RosbagsTypes()
        try:
            with BagWriter(folder / out.stem, types) as writer:
                session = _session(node_config, recogniser, writer, types)
                player = _Player(reader, inputs, session, with_inputs, writer, types, on_image)
                player.play()
                _refuse_nothing(bag, inputs, session)
        finally:
            recogniser.close()
        written = _move_results(folder, writer.file, recogniser, out)
    return ReplaySummary(
        image_topic=_images(inputs),
        num_images=session.num_images,
        num_keyframes=session.num_keyframes,
        num_closures=session.num_closures,
        reasons=session.reasons(),
        topics=dict(writer.counts),
        notes=[*notes, *player.notes, *session.notes()],
        written=written,
    )


class _Player:
    """Hands the messages of a bag to a session, in the order of recording."""

    def __init__(
        self,
        reader: AnyReader,
        inputs: Mapping[str, Inputs],
        session: ReplaySession,
        with_inputs: bool,
        writer: BagWriter,
        types: RosbagsTypes,
        on_image: Callable[[int], object],
    ) -> None:
        self.notes: list[str] = []
        self._reader = reader
        self._inputs = inputs
        self._session = session
        names = set().union(*(of_camera.names() for of_camera in inputs.values()))
        self._copied = names if with_inputs else set()
        self._images = {of_camera.image for of_camera in inputs.values()}
        self._tf_static = next(iter(inputs.values())).tf_static
        self._writer = writer
        self._types = types
        self._on_image = on_image
        self._num_broken = 0

    def play(self) -> None:
        handlers = self._session.handlers(self._inputs)
        num_images = sum(self._reader.topics[topic].msgcount for topic in self._images)
        self._hear_latched(handlers)
        last_ns = 0
        for raw in self._undamaged({*handlers, *self._copied}):
            last_ns = raw.log_ns
            if raw.topic in self._images:
                self._on_image(num_images)
            message = self._message(raw)
            if message is None:
                continue
            if raw.topic in self._copied:
                self._copy(raw, message)
            for handler in handlers.get(raw.topic, ()):
                handler(message, raw.log_ns)
            self._session.process_ready(raw.log_ns)
        self._session.finish(last_ns)
        if self._num_broken:
            self.notes.append(f"{self._num_broken} messages cannot be deserialised; left out")

    def _hear_latched(self, handlers: dict[str, list[Callable[[Any, int], None]]]) -> None:
        """A node gets static transforms when it starts; in a bag they may stand anywhere."""
        topic = self._tf_static
        for raw in () if topic is None else read_messages(self._reader, (topic,)):
            message = self._message(raw)
            for handler in handlers[raw.topic] if message is not None else ():
                handler(message, raw.log_ns)

    def _undamaged(self, topics: set[str]) -> Iterator[Message]:
        """Messages up to where the bag cannot be read any further."""
        messages = read_messages(self._reader, topics)
        while True:
            try:
                raw = next(messages)
            except StopIteration:
                return
            except Exception as error:  # rosbags lets errors of several decompressors and parsers through
                self.notes.append(f"the bag cannot be read any further ({type(error).__name__}: {error})")
                return
            yield raw

    def _message(self, raw: Message) -> Any | None:  # noqa: ANN401
        try:
            return deserialize(self._reader, raw)
        except FrameError as error:
            self._num_broken += 1
            logger.warning("%s at %d ns: %s", raw.topic, raw.log_ns, error)
            return None

    def _copy(self, raw: Message, message: Any) -> None:  # noqa: ANN401
        msgtype = TF if raw.msgtype == LEGACY_TF else raw.msgtype
        latched = raw.topic == self._tf_static
        self._writer.write(raw.topic, in_types(self._types, message, msgtype), raw.log_ns, latched=latched)


def _check_paths(bag: Path, out: Path, force: bool) -> None:
    if not bag.exists() or not is_bag(bag):
        what = "is no bag" if bag.exists() else "does not exist"
        raise SourceError(f"{bag} {what}; expected a .bag, .mcap or .db3 file, or the folder of a ROS 2 bag")
    if out.suffix != ".mcap":
        raise SourceError(f"--out {out} has another suffix than .mcap; name the file {out.stem}.mcap")
    for path in (out, out.with_suffix(MAP_SUFFIX), default_folder(out)):
        if path.exists() and not force:
            raise SourceError(f"{path} exists; choose another --out, or replace it with --force")
        if path.exists() and bag.exists() and path.samefile(bag):
            raise SourceError(f"{path} is the bag that is read; choose another --out")


@contextmanager
def _working_folder(out: Path) -> Iterator[Path]:
    """A folder beside the output, gone at the end."""
    folder = out.with_name(f".{out.stem}.{os.getpid()}")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise SourceError(f"folder {folder} cannot be made: {error}; choose another --out") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fitting(config: NodeConfig, inputs: Mapping[str, Inputs], folder: Path) -> tuple[NodeConfig, list[str]]:
    """Settings that the bag cannot meet, and paths that only a node has."""
    notes = []
    if config.input.odometry == "topic" and all(of_camera.odom is None for of_camera in inputs.values()):
        notes.append(
            "the bag has no odometry topic: closures are not checked against odometry, and poses have no metres"
        )
        config = config.model_copy(update={"input": config.input.model_copy(update={"odometry": "none"})})
    if not config.recorder.folder:
        recorder = config.recorder.model_copy(update={"folder": str(folder / GRAPH)})
        config = config.model_copy(update={"recorder": recorder})
    return config, notes


def _open_recogniser(node_config: NodeConfig, config: Config, folder: Path) -> PlaceRecogniser:
    """With a copy of the known map, or a new one, in the working folder; or with the known one, to be asked only."""
    encoder = open_encoder(node_config, config.encoder)
    try:
        if not node_config.map.read_only:
            path = folder / f"map{MAP_SUFFIX}"
            known = Path(node_config.map.path).expanduser()
            if node_config.map.path:
                _copy_map(known, path, encoder.spec)
            in_folder = node_config.map.model_copy(update={"path": str(path)})
            node_config = node_config.model_copy(update={"map": in_folder})
    except BaseException:
        encoder.close()
        raise
    return PlaceRecogniser.open(node_config, config, encoder=encoder)


def _copy_map(source: Path, target: Path, spec: ModelSpec) -> None:
    with MapStore.open(source, spec=spec, read_only=True) as known:
        known.copy_to(target)


def _session(config: NodeConfig, recogniser: PlaceRecogniser, writer: BagWriter, types: RosbagsTypes) -> ReplaySession:
    adapters = open_adapters(config, types, recogniser.map_path, lambda image: recogniser.encoder.encode([image])[0])
    return ReplaySession(config, open_assembler(config, keep_all=True), recogniser, adapters, writer, types)


def _refuse_nothing(bag: Path, inputs: Mapping[str, Inputs], session: ReplaySession) -> None:
    if not session.num_images:
        why = "; ".join(session.notes())
        raise SourceError(
            f"not one image of {_images(inputs)} in bag {bag} could be used" + (f": {why}" if why else "")
        )


def _images(inputs: Mapping[str, Inputs]) -> str:
    return ", ".join(of_camera.image for of_camera in inputs.values())


def _move_results(folder: Path, mcap: Path, recogniser: PlaceRecogniser, out: Path) -> list[Path]:
    """The mcap file last: who sees it finds everything."""
    written = []
    if (folder / GRAPH).is_dir():
        target = default_folder(out)
        shutil.rmtree(target, ignore_errors=True)
        written.append((folder / GRAPH).replace(target))
    if not recogniser.read_only and recogniser.map_path is not None:
        written.append(_move(recogniser.map_path, out.with_suffix(MAP_SUFFIX)))
    return [_move(mcap, out), *written]


def _move(source: Path, target: Path) -> Path:
    with replacing(target) as temporary:
        source.replace(temporary)
    return target
