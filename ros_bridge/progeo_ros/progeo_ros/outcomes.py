"""From what the detector says of an image to what travels to publishers and adapters."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from progeo_edge.types import Frame, Update
from progeo_ros.events import Outcome, thumbnail_of
from progeo_ros.map_in_use import MapInUse


@dataclass(frozen=True, slots=True)
class Origin:
    """Where and when an image was taken, as ROS says; attributes as the arguments of `PlaceRecogniser.process`."""

    camera_frame: str
    base_frame: str
    odom_frame: str
    arrival_ns: int


def outcome_of(
    frame: Frame,
    update: Update,
    where: Origin,
    map_in_use: MapInUse,
    *,
    session: str,
    model_id: str,
    floor: float,
) -> Outcome:
    """What became of an image, with what the map says of every keyframe that is named.

    Args:
        frame: The image.
        update: What the detector said.
        where: Where the image comes from.
        map_in_use: After it has learned the new keyframe.
        session: Name of the run whose keyframes are being made.
        model_id: Fingerprint of the encoder.
        floor: `gate.min_similarity`, for images that were not searched for.
    """
    named = {c.reference_id for c in update.candidates}
    named |= {c.reference_id for c in (*update.closures, *update.released)} | {c.query_id for c in update.released}
    return Outcome(
        frame=frame,
        update=update,
        references={keyframe_id: map_in_use.infos[keyframe_id] for keyframe_id in named},
        session=session,
        session_names=dict(map_in_use.session_names),
        model_id=model_id,
        min_similarity=floor if update.min_similarity is None else update.min_similarity,
        base_frame=where.base_frame,
        odom_frame=where.odom_frame,
        camera_frame=where.camera_frame,
        latency_ms=(time.monotonic_ns() - where.arrival_ns) / 1e6,
        thumbnail_of=partial(thumbnail_of, map_in_use.store),
    )
