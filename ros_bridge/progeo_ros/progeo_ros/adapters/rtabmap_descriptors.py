"""Our global descriptor in every RGBDImage that RTAB-Map receives.

RTAB-Map compares the global descriptors of two nodes one by one, and aborts when one of them has fewer
(`Signature::compareTo`). So this adapter stands in the stream: an image leaves it with a descriptor, or not at all.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import ProgeoError
from progeo_edge.sources.images import FrameError
from progeo_edge.sources.ros_images import image_from_compressed, image_from_message
from progeo_edge.types import Descriptor, Image
from progeo_ros.adapters import Action, Counters, Publish, Subscription
from progeo_ros.config import NodeConfig
from progeo_ros.events import Outcome
from progeo_ros.message_types import NANOSECONDS, MessageTypes, stamp_ns_of

log = logging.getLogger(__name__)

Encode = Callable[[Image], Descriptor]
"""(H, W, 3) BGR or (H, W) grey uint8 to a descriptor (D,) float32 of unit norm, from any thread."""

INPUT_TOPIC, OUTPUT_TOPIC = "rgbd_image", "rgbd_image/described"
COMPARED = 1
"""The one type that RTAB-Map compares; any other is stored and never looked at."""
CV_32FC1 = 5


class RtabmapDescriptors:
    """Adapter `rtabmap_descriptors`; see docs/adapters.md.

    It asks for a descriptor of every image, because an outcome has one only for keyframes, and RTAB-Map makes nodes of
    images that are none.
    """

    name = "rtabmap_descriptors"
    required_types: tuple[str, ...] = ("rtabmap_msgs/msg/RGBDImage", "rtabmap_msgs/msg/GlobalDescriptor")

    def __init__(self, config: NodeConfig, types: MessageTypes, encode: Encode) -> None:
        self._types = types
        self._encode = encode
        self._min_period_ns = NANOSECONDS / config.input.max_rate_hz
        self._last_ns: int | None = None
        self._counters = Counters()

    def subscriptions(self) -> tuple[Subscription, ...]:
        """The images that RTAB-Map would receive."""
        return (Subscription(INPUT_TOPIC, "rtabmap_msgs/msg/RGBDImage", self._on_image),)

    def _on_image(self, message: Any) -> Iterable[Action]:  # noqa: ANN401
        try:
            if not self._is_due(stamp_ns_of(message.header.stamp)):
                self._counters.add("dropped_by_rate")
                return []
            message.global_descriptor = descriptor_message(
                self._types, message.header, self._encode(_image_of(message))
            )
        except (ProgeoError, FrameError, AttributeError, TypeError, ValueError) as error:
            self._counters.add("not_described")
            log.warning("an RGBDImage is held back, for without descriptor it would abort RTAB-Map: %s", error)
            return []
        self._counters.add("described")
        return [Publish(OUTPUT_TOPIC, "rtabmap_msgs/msg/RGBDImage", message)]

    def _is_due(self, stamp_ns: int) -> bool:
        """RTAB-Map takes one image per second; a descriptor of each image of a fast camera would be wasted."""
        if self._last_ns is not None and 0 <= stamp_ns - self._last_ns < self._min_period_ns * 0.9:
            return False
        self._last_ns = stamp_ns
        return True

    def on_outcome(self, outcome: Outcome) -> Iterable[Action]:
        """Nothing: outcomes come too late, and not for every image."""
        return []

    def on_tick(self, now_ns: int) -> Iterable[Action]:
        """Nothing."""
        return []

    def counters(self) -> Mapping[str, int]:
        """Images described, dropped and held back."""
        return dict(self._counters.values)

    def close(self) -> None:
        """Nothing is kept."""


def descriptor_message(types: MessageTypes, header: Any, descriptor: NDArray[np.float32]) -> Any:  # noqa: ANN401
    """rtabmap_msgs/GlobalDescriptor.

    Args:
        types: Makes it.
        header: Of the image.
        descriptor: (D,) float32; made unit norm, since RTAB-Map's similarity is (dot + 1) / 2 and asserted positive.

    Raises:
        ValueError: not finite, or zero.
    """
    norm = float(np.linalg.norm(descriptor))
    if not np.isfinite(norm) or norm == 0.0:
        raise ValueError(f"descriptor has the norm {norm}; expected a finite one")
    row = (np.asarray(descriptor, dtype=np.float32) / np.float32(norm)).reshape(1, -1)
    return types.make("rtabmap_msgs/msg/GlobalDescriptor", header=header, type=COMPARED, data=compressed_matrix(row))


def compressed_matrix(matrix: NDArray[np.float32]) -> bytes:
    """(rows, cols) float32 as `rtabmap::compressData` writes it.

    That is zlib of the row-major values, followed by rows, cols and OpenCV's type, each an int32, all in the byte order
    of the machine (corelib/src/Compression.cpp of rtabmap).
    """
    values = np.asarray(matrix, dtype=np.float32)
    return zlib.compress(values.tobytes()) + np.array([*values.shape, CV_32FC1], dtype=np.int32).tobytes()


def _image_of(message: Any) -> Image:  # noqa: ANN401
    """The colour image, raw or compressed, whichever the message carries."""
    if len(message.rgb.data) > 0:
        return image_from_message(message.rgb)
    return image_from_compressed(message.rgb_compressed)
