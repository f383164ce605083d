"""Where frames come from: folders, lists, videos, data sets and bags, all as `Iterable[Frame]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

from progeo_edge.errors import SourceError
from progeo_edge.geometry import Cameras
from progeo_edge.sources.base import SkippedFrame, Source
from progeo_edge.sources.images import IMAGE_SUFFIXES
from progeo_edge.sources.rig import by_camera, camera_names, single_calibration

__all__ = ["KINDS", "Kind", "SkippedFrame", "Source", "open_source"]

Kind = Literal["folder", "list", "video", "tum", "euroc", "kitti", "bag"]

KINDS: dict[Kind, str] = {
    "folder": "a folder with images, or with a subfolder images",
    "list": "a .csv or .txt list of images",
    "video": "a video file",
    "tum": "a TUM RGB-D folder (rgb.txt)",
    "euroc": "a EuRoC folder (mav0/cam0/data.csv)",
    "kitti": "a KITTI odometry sequence (times.txt, image_0 or image_2)",
    "bag": "a ROS 1 .bag, a ROS 2 folder (metadata.yaml), an .mcap or a .db3",
}
"""Kind to what it looks like."""

_TOPIC_OPTIONS = ("image_topic", "odom_topic", "camera_info_topic", "depth_topic", "right_topic")
_OPTIONS: dict[Kind, tuple[str, ...]] = {
    "folder": ("fps", "stamps", "poses", "cameras"),
    "list": ("fps",),
    "video": ("fps",),
    "tum": (),
    "euroc": ("cameras",),
    "kitti": ("poses",),
    "bag": _TOPIC_OPTIONS,
}
_TOPICS_BY_CAMERA = ("image_topic", "camera_info_topic", "depth_topic", "right_topic")
_LIST_SUFFIXES = (".csv", ".txt")


def open_source(
    path: str | Path,
    *,
    kind: str = "auto",
    rate_hz: float | None = None,
    fps: float | None = None,
    stamps: Path | None = None,
    poses: Path | None = None,
    camera: Cameras | None = None,
    cameras: str | Sequence[str] | None = None,
    image_topic: str | Mapping[str, str] | None = None,
    odom_topic: str | None = None,
    camera_info_topic: str | Mapping[str, str] | None = None,
    depth_topic: str | Mapping[str, str] | None = None,
    right_topic: str | Mapping[str, str] | None = None,
) -> Source:
    """Open anything that holds frames.

    Args:
        path: File or folder.
        kind: What it is; "auto" looks.
        rate_hz: Keep at most this many frames per second; None keeps all.
        fps: folder, list: frames per second when there are no stamps (1 when None). video: instead of its stamps.
        stamps: folder: list of stamps, by image or in order.
        poses: folder: list of poses by image. kitti: pose file.
        camera: Intrinsics and mounting, of a rig by the name of the camera; None takes what the data state.
        cameras: folder, euroc: subfolders of the cameras of a rig, a list or "front,rear".
        image_topic: bag: needed when there are several. Of a rig the topics by the name of the camera, a mapping or
            "front=TOPIC,rear=TOPIC"; so too the three below.
        odom_topic: bag: needed when there are several; "none" uses none.
        camera_info_topic: bag: None takes camera_info beside the image topic.
        depth_topic: bag: depth registered to the image.
        right_topic: bag: right image of a rectified pair.

    Returns:
        Frames in the order of their stamps, decoded one at a time; see `Source`.

    Raises:
        SourceError: missing, empty, not understood, or an option that its kind does not have.
    """
    path = Path(path)
    if not path.exists():
        raise SourceError(f"source {path} does not exist; check the path")
    if kind != "auto" and kind not in get_args(Kind):
        raise SourceError(f"kind {kind!r} is unknown; expected auto, {', '.join(KINDS)}")
    names = None if cameras is None else camera_names(cameras)
    chosen = _detect(path, names) if kind == "auto" else cast(Kind, kind)
    given: dict[str, Any] = {
        "cameras": names,
        "fps": fps,
        "stamps": stamps,
        "poses": poses,
        "image_topic": image_topic,
        "odom_topic": odom_topic,
        "camera_info_topic": camera_info_topic,
        "depth_topic": depth_topic,
        "right_topic": right_topic,
    }
    options = {name: value for name, value in given.items() if value is not None}
    options |= {name: by_camera(name, options[name]) for name in _TOPICS_BY_CAMERA if name in options}
    _check_options(path, chosen, options)
    return _open(chosen, path, rate_hz=rate_hz, camera=camera, **options)


def _open(kind: Kind, path: Path, **options: Any) -> Source:  # noqa: ANN401
    from progeo_edge.sources import bag, euroc, folder, kitti, tum, video

    openers: dict[Kind, Callable[..., Source]] = {
        "folder": folder.open_folder,
        "list": folder.open_list,
        "video": video.open_video,
        "tum": tum.open_tum,
        "euroc": euroc.open_euroc,
        "kitti": kitti.open_kitti,
        "bag": bag.open_bag,
    }
    expects_folder = kind in ("folder", "tum", "euroc", "kitti")
    if kind != "bag" and path.is_dir() != expects_folder:
        raise SourceError(f"source {path} is a {'folder' if path.is_dir() else 'file'}; kind {kind} is {KINDS[kind]}")
    if "cameras" in options and kind == "folder":
        return _open_rig_folder(path, options)
    if kind == "bag" and isinstance(options.get("image_topic"), dict):
        return bag.open_rig_bag(path, **options)
    if kind not in ("list", "euroc"):
        options["camera"] = single_calibration(options["camera"], str(path))
    return openers[kind](path, **options)


def _open_rig_folder(path: Path, options: dict[str, Any]) -> Source:
    from progeo_edge.sources.folder import open_rig_folder

    for name in ("stamps", "poses"):
        if name in options:
            raise SourceError(
                f"{name} {options[name]} is one list for several cameras; put one into each camera's folder, or name "
                "all images in one CSV list with a column camera"
            )
    return open_rig_folder(path, **options)


def _check_options(path: Path, kind: Kind, options: dict[str, Any]) -> None:
    for name, value in options.items():
        if name not in _OPTIONS[kind]:
            kinds = [other for other in KINDS if name in _OPTIONS[other]]
            raise SourceError(
                f"{name} = {value} does not apply to {path}, which is {KINDS[kind]}; it is for {', '.join(kinds)}"
            )
        if isinstance(value, dict) and not isinstance(options.get("image_topic"), dict):
            raise SourceError(f"{name} {value} names cameras, image_topic does not; say image_topic by camera too")
        if name in _TOPICS_BY_CAMERA and isinstance(value, str) and isinstance(options.get("image_topic"), dict):
            raise SourceError(f"{name} {value} does not say of which camera; write front=TOPIC,rear=TOPIC")
        if name in ("stamps", "poses") and not Path(value).is_file():
            raise SourceError(f"{name} file {value} does not exist; check the path")


def _detect(path: Path, cameras: Sequence[str] | None) -> Kind:
    kind = _detect_folder(path, cameras) if path.is_dir() else _detect_file(path)
    if kind is None:
        raise SourceError(
            f"source {path} is not understood: {_describe(path)}. Expected one of: {'; '.join(KINDS.values())}"
        )
    return kind


def _detect_file(path: Path) -> Kind | None:
    from progeo_edge.sources.bag_reader import BAG_SUFFIXES
    from progeo_edge.sources.video import VIDEO_SUFFIXES

    suffix = path.suffix.lower()
    if suffix in BAG_SUFFIXES:
        return "bag"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    return "list" if suffix in _LIST_SUFFIXES else None


def _detect_folder(path: Path, cameras: Sequence[str] | None) -> Kind | None:
    from progeo_edge.sources.bag import is_bag
    from progeo_edge.sources.euroc import find_camera_folder
    from progeo_edge.sources.folder import find_images
    from progeo_edge.sources.kitti import find_left_folder

    if is_bag(path):
        return "bag"
    if (path / "rgb.txt").is_file():
        return "tum"
    if find_camera_folder(path):
        return "euroc"
    if find_left_folder(path):
        return "kitti"
    return "folder" if cameras or find_images(path) else None


def _describe(path: Path) -> str:
    if path.is_file():
        is_image = path.suffix.lower() in IMAGE_SUFFIXES
        return "it is a single image; name its folder" if is_image else f"it is a file ending in {path.suffix!r}"
    names = sorted(child.name for child in path.iterdir())
    if not names:
        return "it is an empty folder"
    from progeo_edge.sources.folder import find_images

    inner = [child.name for child in sorted(path.iterdir()) if child.is_dir() and find_images(child)]
    hint = f"; there are images in {', '.join(inner[:5])}: name one of them" if inner else ""
    return f"it holds {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}{hint}"
