"""Messages of ROS bags: opening, stamps, and pairing images with what was taken at the same moment."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from progeo_edge.errors import SourceError
from progeo_edge.sources.images import FrameError

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

BAG_SUFFIXES = frozenset((".bag", ".mcap", ".db3"))

MAX_OFFSET_NS = 20_000_000
"""Largest difference of stamps between an image and its depth or right image."""
WAIT_NS = 200_000_000
"""How long, in the time of recording, an image waits for its depth or right image."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Message:
    """One serialised message.

    Attributes:
        topic: Its topic.
        msgtype: As rosbags writes it: "sensor_msgs/msg/Image".
        log_ns: Time of recording.
        data: ROS 1 serialisation or CDR.
    """

    topic: str
    msgtype: str
    log_ns: int
    data: bytes

    @property
    def header_ns(self) -> int:
        """Stamp of the header, with which all messages used here begin; 0 when the driver has not set it.

        Raises:
            FrameError: when the message is too short to hold one.
        """
        # ROS 1: seq, seconds, nanoseconds. CDR: four bytes that state the byte order, seconds, nanoseconds.
        if len(self.data) < 12:
            raise FrameError(f"the message is truncated ({len(self.data)} bytes)")
        seconds, nanoseconds = struct.unpack_from("<iI", self.data, 4)
        return int(seconds) * 10**9 + int(nanoseconds)


class Clock:
    """Stamps of the headers of one topic; times of recording when the first header has none."""

    def __init__(self) -> None:
        self._uses_header: bool | None = None

    def stamp_ns(self, message: Message) -> int:
        """Time of the message; raises FrameError when it is too short to hold one."""
        header_ns = message.header_ns
        if self._uses_header is None:
            self._uses_header = header_ns != 0
        return header_ns if self._uses_header else message.log_ns


@contextmanager
def opened(path: Path) -> Iterator[AnyReader]:
    """Reader of a bag file, of a ROS 2 folder, or of a folder with several .bag files of one recording.

    Raises:
        SourceError: the extra is missing, or the bag cannot be read.
    """
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise SourceError(f"{path} is a bag, and reading it needs: pip install 'progeo-edge[bags]'") from error
    paths = [path] if path.is_file() or (path / "metadata.yaml").is_file() else bag_files(path)

    def start() -> AnyReader:
        reader = AnyReader(paths, default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        reader.open()
        return reader

    reader = guarded(path, start)
    try:
        yield reader
    finally:
        reader.close()


def guarded(path: Path, step: Callable[[], T]) -> T:
    """Run a step of reading; rosbags lets the errors of several decompressors and parsers through.

    Raises:
        SourceError: for any of them.
    """
    try:
        return step()
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(
            f"bag {path} cannot be read ({type(error).__name__}: {error}); if its recording was cut off, repair it "
            f"with 'rosbag reindex', 'ros2 bag reindex' or 'mcap recover'"
        ) from error


def bag_files(folder: Path) -> list[Path]:
    """Bag files directly in a folder, by name."""
    return sorted(file for file in folder.iterdir() if file.suffix in BAG_SUFFIXES and file.is_file())


def read_messages(reader: AnyReader, topics: Collection[str]) -> Iterator[Message]:
    """Messages of some topics in the order of recording."""
    connections = [connection for connection in reader.connections if connection.topic in topics]
    if connections:  # no connections would mean all of them
        for connection, log_ns, data in reader.messages(connections):
            yield Message(connection.topic, connection.msgtype, log_ns, data)


def deserialize(reader: AnyReader, message: Message) -> Any:  # noqa: ANN401
    """The message as an object with the fields of its type.

    Raises:
        FrameError: when its bytes are not a message of that type.
    """
    try:
        return reader.deserialize(message.data, message.msgtype)
    except Exception as error:  # rosbags checks no lengths: truncated bytes end in any of a dozen exceptions
        raise FrameError(f"the message cannot be deserialised ({type(error).__name__}: {error})") from error


def grouped(messages: Iterator[Message], image_topic: str) -> Iterator[tuple[Message, list[Message]]]:
    """Each image with the messages of other topics recorded within 0.2 s before or after it, still serialised."""
    waiting: deque[Message] = deque()
    others: deque[Message] = deque()
    for message in messages:
        (waiting if message.topic == image_topic else others).append(message)
        while waiting and message.log_ns - waiting[0].log_ns > WAIT_NS:
            yield waiting.popleft(), list(others)
        while others and message.log_ns - others[0].log_ns > 2 * WAIT_NS:
            others.popleft()
    for image in waiting:
        yield image, list(others)


def nearest(messages: Collection[Message], topic: str | None, stamp_ns: int) -> Message | None:
    """The message of a topic whose header is nearest to a stamp, within 20 ms."""
    offsets = [(abs(_header_or_log_ns(message) - stamp_ns), message) for message in messages if message.topic == topic]
    best = min(offsets, key=lambda pair: pair[0], default=None)
    return best[1] if best is not None and best[0] <= MAX_OFFSET_NS else None


def _header_or_log_ns(message: Message) -> int:
    return Clock().stamp_ns(message) if len(message.data) >= 12 else message.log_ns
