"""Profiles of quality of service, and the publishers of what is said about images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

from progeo_ros.events import Outcome
from progeo_ros.publications import Publication
from progeo_ros.ros2.types import RclpyTypes

OnError = Callable[[str, Exception], None]
"""Told who failed, and how."""


def reliable(depth: int, *, latched: bool = False) -> QoSProfile:
    """Every message arrives; latched: late joiners get the last `depth` ones."""
    return QoSProfile(
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def sensor_data(depth: int) -> QoSProfile:
    """What is late is worthless: best effort, which takes from reliable and from best-effort publishers alike."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)


def overridable() -> QoSOverridingOptions:
    """Lets parameters `qos_overrides.<topic>.<publisher|subscription>.<policy>` change a profile."""
    kinds = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
    return QoSOverridingOptions(kinds)


class OutcomePublishers:
    """Sends what is published for an outcome.

    Args:
        node: Owner of the publishers.
        publications: The topics.
        types: Makes messages.
        on_error: One topic that fails does not keep the others from being sent.
    """

    def __init__(self, node: Node, publications: Sequence[Publication], types: RclpyTypes, on_error: OnError) -> None:
        self._node = node
        self._types = types
        self._on_error = on_error
        self._publishers: list[tuple[Publication, Publisher]] = [(p, self._publisher(p)) for p in publications]

    def _publisher(self, publication: Publication) -> Publisher:
        profile = reliable(publication.depth, latched=publication.latched)
        kind = self._types.find(publication.msgtype)
        return self._node.create_publisher(kind, publication.topic, profile, qos_overriding_options=overridable())

    def publish(self, outcome: Outcome) -> None:
        """Build and send; what nobody listens to is not built unless it is for late joiners."""
        for publication, publisher in self._publishers:
            if not publication.always and publisher.get_subscription_count() == 0:
                continue
            try:
                for message in publication.build(self._types, outcome):
                    publisher.publish(message)
            except Exception as error:
                self._on_error(f"topic {publication.topic}", error)

    def destroy(self) -> None:
        """Take the publishers away."""
        for _, publisher in self._publishers:
            self._node.destroy_publisher(publisher)
        self._publishers = []
