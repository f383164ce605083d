"""Dirt on the lens, a scratch, a caption: what sticks to the picture matches everywhere and says nothing of a place."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from progeo_edge.types import LocalFeatures, Verification

_SAME_PX = 1.0
"""In pixels of an image of 640: two views of a place that differ by less are of a robot that has not moved."""
_STAYING = 0.5
_RECURRING = 0.2
"""Of the inliers that stay, dirt showed 40 to 90 % again in another keyframe; not every speck is found every time. Of
the keypoints of another picture, chance puts a few per cent there."""
_KEYFRAMES_BACK = 3


class StuckToTheLens:
    """Tells closures whose inliers do not move in the picture, neither to the reference nor while the robot drives.

    The mask of static pixels leaves such things out too, but only after many keyframes and where they are large.
    """

    def __init__(self) -> None:
        self._earlier: deque[LocalFeatures] = deque(maxlen=_KEYFRAMES_BACK)

    def explains(self, verification: Verification, image_size_px: tuple[int, int]) -> bool:
        """Whether most inliers lie at the same pixels in the reference, and many in an earlier keyframe of this drive.

        A robot that returns to the very same pose passes, because what it sees there was elsewhere in the picture a
        few keyframes ago.

        Args:
            verification: Accepted by the geometry.
            image_size_px: Width and height of the query's image.
        """
        query_px, reference_px = verification.query_px, verification.reference_px
        if query_px is None or reference_px is None or not self._earlier or len(query_px) == 0:
            return False
        earlier = self._earlier[0]
        if earlier.image_size_px != image_size_px or len(earlier) == 0:
            return False
        tolerance_px = _SAME_PX * max(image_size_px) / 640.0
        stays = np.linalg.norm(query_px - reference_px, axis=1) < tolerance_px
        if stays.mean() < _STAYING:
            return False
        return float(_have_neighbours(query_px[stays], earlier.keypoints_px, tolerance_px).mean()) >= _RECURRING

    def remember(self, features: LocalFeatures | None) -> None:
        """The features of the newest keyframe."""
        if features is not None:
            self._earlier.append(features)


def _have_neighbours(
    points_px: NDArray[np.float32], others_px: NDArray[np.float32], within_px: float
) -> NDArray[np.bool_]:
    """(N,) whether one of the others is that near."""
    across_px, down_px = (points_px[:, None, axis] - others_px[None, :, axis] for axis in (0, 1))
    return np.asarray((across_px**2 + down_px**2 < within_px**2).any(axis=1))
