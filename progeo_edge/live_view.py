"""Watch a run while it goes, with rerun (extra `viz`)."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import cv2

from progeo_edge.errors import ConfigError
from progeo_edge.map_store import MapStore
from progeo_edge.runner import Observer
from progeo_edge.types import Frame, Image, Update

JPEG_QUALITY = 80


def open_live_view(target: str, map_store: MapStore) -> Observer:
    """Observer that shows every frame, the best candidate, the path and the closures.

    Args:
        target: "rerun" opens the viewer; a path ending in .rrd writes a recording to open later.
        map_store: Where reference pictures come from.

    Raises:
        ConfigError: the extra is not installed, or the target is neither.
    """
    try:
        import rerun as rr
    except ImportError as error:
        raise ConfigError("--viz needs rerun; install it with: pip install 'progeo-edge[viz]'") from error
    if target != "rerun" and Path(target).suffix != ".rrd":
        raise ConfigError(f"--viz {target!r} is unknown; use 'rerun' for the viewer or a file name ending in .rrd")
    recording = rr.RecordingStream("progeo-edge")
    if target == "rerun":
        recording.spawn()
    else:
        recording.save(target)
    path: list[list[float]] = []

    def show(frame: Frame, update: Update) -> None:
        recording.set_time("time", timestamp=frame.stamp_ns * 1e-9)
        recording.log("query", rr.Image(_colour(frame.image), color_model="BGR").compress(jpeg_quality=JPEG_QUALITY))
        if update.keyframe is None:
            return
        recording.log("status", rr.TextLog(f"{update.keyframe.name}: {update.status.value}"))
        if update.candidates:
            best = update.candidates[0]
            recording.log("similarity", rr.Scalars(best.similarity))
            reference = map_store.thumbnail(best.reference_id)
            if reference is not None:
                recording.log("best candidate", rr.Image(_colour(reference), color_model="BGR"))
        for stage, elapsed_ms in update.timings_ms.items():
            recording.log(f"timings_ms/{stage}", rr.Scalars(elapsed_ms))
        if update.keyframe.T_odom_base is not None:
            path.append(update.keyframe.T_odom_base[:3, 3].tolist())
            recording.log("odom/path", rr.LineStrips3D([path]))
        for closure in update.closures:
            _show_closure(closure.reference_id, update)

    def _show_closure(reference_id: int, update: Update) -> None:
        assert update.keyframe is not None
        recording.log("status", rr.TextLog(f"closure: {update.keyframe.id} sees the place of {reference_id}"))
        T_odom_reference = map_store.keyframe(reference_id).T_odom_base
        if T_odom_reference is not None and update.keyframe.T_odom_base is not None:
            ends = [T_odom_reference[:3, 3].tolist(), update.keyframe.T_odom_base[:3, 3].tolist()]
            recording.log(f"odom/closures/{update.keyframe.id}-{reference_id}", rr.LineStrips3D([ends]))

    return show


def _colour(image: Image) -> Image:
    return image if image.ndim == 3 else cast(Image, cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
