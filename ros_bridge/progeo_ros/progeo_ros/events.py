"""What travels from the detector to publishers and adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from progeo_edge.map_content import MapContent
from progeo_edge.map_rows import KeyframeInfo
from progeo_edge.types import Frame, Image, LoopClosure, Relocalisation, Transform, Update


@dataclass(frozen=True, slots=True, eq=False)
class Thumbnail:
    """The small image of a keyframe.

    Attributes:
        image: (H, W, 3) BGR or (H, W) grey.
        original_size_px: Width and height of the image it was made from, to which inliers refer; None when the map
            does not say.
    """

    image: Image
    original_size_px: tuple[int, int] | None


def thumbnail_of(map_content: MapContent, keyframe_id: int) -> Thumbnail | None:
    """Read the small image of a keyframe; None when the map keeps none.

    Raises:
        InputError: unknown id.
        MapError: damaged.
    """
    image = map_content.thumbnail(keyframe_id)
    if image is None:
        return None
    features = map_content.features(keyframe_id)
    return Thumbnail(image, None if features is None else features.image_size_px)


def no_thumbnail(keyframe_id: int) -> Thumbnail | None:
    """For a map that keeps no thumbnails."""
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of one image.

    Attributes:
        frame: The image, with its stamp and odometry.
        update: What the detector said.
        references: What the map says about every candidate's reference, by keyframe id.
        session: Name of the run whose keyframes are being made.
        session_names: Name of each session of the map, by id.
        model_id: Fingerprint of the encoder.
        min_similarity: The similarity gate in force.
        base_frame: Frame that all poses are of (child).
        odom_frame: Frame of the odometry.
        camera_frame: frame_id of the image.
        latency_ms: From the arrival of the image to the end of the detector's work.
        thumbnail_of: Reads the small image of a reference from the map (`partial(thumbnail_of, map_store)`). Called
            only while someone looks at match_image.
    """

    frame: Frame
    update: Update
    references: Mapping[int, KeyframeInfo]
    session: str
    session_names: Mapping[int, str]
    model_id: str
    min_similarity: float
    base_frame: str
    odom_frame: str
    camera_frame: str
    latency_ms: float
    thumbnail_of: Callable[[int], Thumbnail | None] = no_thumbnail

    def reference(self, reference_id: int) -> KeyframeInfo:
        """What the map says about a reference."""
        return self.references[reference_id]

    def session_of(self, reference_id: int) -> str:
        """Name of the session that a reference belongs to."""
        return self.session_names.get(self.references[reference_id].session, "")


@dataclass(frozen=True, slots=True, eq=False)
class Whereabouts:
    """What a question "where am I?" has come to with one image more.

    Attributes:
        relocalisation: What all images of the question amount to.
        outcome: With the match as its only closure and the stamp of the image that verified it; without a match of the
            newest image.
    """

    relocalisation: Relocalisation
    outcome: Outcome


def map_pose(outcome: Outcome, closure: LoopClosure) -> Transform | None:
    """T_map_base of the query by a closure: the reference's pose in the odometry frame of its session, and the closure.

    None when the closure is not in metres, or the reference has no pose.
    """
    verification = closure.verification
    T_map_reference = outcome.reference(closure.reference_id).T_odom_base
    if verification is None or verification.T_reference_query is None or T_map_reference is None:
        return None
    return T_map_reference @ verification.T_reference_query if verification.pose_kind.value == "METRIC" else None
