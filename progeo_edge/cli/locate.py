"""progeo-map locate: where in this map does a recording begin?"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from progeo_edge.cli.console import console, progress
from progeo_edge.errors import InputError, SourceError

if TYPE_CHECKING:
    from progeo_edge.geometry import Cameras
    from progeo_edge.map_store import MapStore
    from progeo_edge.relocalisation import Relocaliser
    from progeo_edge.types import Frame, Image, Relocalisation

LOCATE_HELP = """Say where in a map a recording begins, from its first images; exit code 1 when there is no match.

SOURCE is one image, or anything that progeo-run takes. Images are looked at until one place is likely enough
(relocalisation.min_probability) or relocalisation.max_frames views have voted.

**Examples**

    progeo-map locate out/map.progeo photo.jpg --picture match.jpg
    progeo-map locate out/map.progeo tuesday/ --camera camera.yaml --json

docs/relocalisation.md says what the probability means.
"""

NO_MATCH = 1


def locate(
    map_file: Annotated[Path, typer.Argument(metavar="MAP", help="map file, such as out/map.progeo")],
    source: Annotated[Path, typer.Argument(help="image, folder, video, CSV list, data set or bag")],
    encoder: Annotated[str, typer.Option(help="the one that made the map, as in progeo-run")] = "vlad",
    backend: Annotated[Literal["auto", "tensorrt", "openvino", "onnx"], typer.Option(help="of a bundle")] = "auto",
    precision: Annotated[Literal["fp32", "fp16", "int8"] | None, typer.Option(help="of a bundle")] = None,
    whitening: Annotated[
        Path | None, typer.Option(help="whitening of this encoder, from progeo-calibrate --whiten")
    ] = None,
    camera: Annotated[Path | None, typer.Option(help="camera YAML; without it there is no pose")] = None,
    picture: Annotated[Path | None, typer.Option(help="write the match beside the query: .jpg or .png")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    profile: Annotated[str | None, typer.Option(help="conservative (default), balanced or recall")] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="YAML with settings; see docs/config.md")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="one setting, as section.name=value")] = None,
    kind: Annotated[str, typer.Option(help="auto, folder, list, video, tum, euroc, kitti or bag")] = "auto",
    rate: Annotated[float | None, typer.Option(help="frames per second to look at; all without it")] = None,
    fps: Annotated[float | None, typer.Option(help="image folder without times: frames per second")] = None,
    poses: Annotated[Path | None, typer.Option(help="image folder: CSV with the odometry of its images")] = None,
    image_topic: Annotated[str | None, typer.Option(help="bag: topic of the images")] = None,
    odom_topic: Annotated[str | None, typer.Option(help="bag: topic of the odometry")] = None,
) -> None:
    """Where am I?"""
    from progeo_edge.camera_file import load_cameras
    from progeo_edge.config import load_config
    from progeo_edge.detector import LoopDetector
    from progeo_edge.encoders import load_encoder
    from progeo_edge.map_store import MapStore
    from progeo_edge.relocalisation import Relocaliser

    if picture is not None and picture.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise InputError(f"--picture {picture} is no .jpg or .png; name it so")
    # Nobody waits for a robot that does not know where it is: look at every candidate that may be the place.
    defaults = {"budget": {"deadline_ms": 0.0, "max_verifications": 10}}
    config = load_config(config_file, profile=profile, overrides=settings or (), defaults=defaults)
    options: dict[str, Any] = {"kind": kind, "rate_hz": rate, "fps": fps, "poses": poses}
    options |= {"image_topic": image_topic, "odom_topic": odom_topic}
    frames, known_camera = _open(source, load_cameras(camera) if camera else None, options)
    model = load_encoder(
        encoder,
        backend=backend,
        precision=precision,
        whitening=whitening,
        threads=config.encoder.threads,
        spin=config.encoder.spin,
    )
    with MapStore.open(map_file, spec=model.spec, read_only=True) as store:
        relocaliser = Relocaliser(LoopDetector(model, store, known_camera, config))
        looked_at = _look(relocaliser, frames)
        answer = relocaliser.answer
        if answer.match is not None and picture is not None:
            _write_picture(picture, store, answer, looked_at)
        record = _record(store, answer, looked_at)
    model.close()
    if as_json:
        typer.echo(json.dumps(record, indent=2))
    else:
        _print(record)
    if answer.match is None:
        raise typer.Exit(NO_MATCH)


def _open(source: Path, camera: Cameras | None, options: dict[str, Any]) -> tuple[Iterable[Frame], Cameras | None]:
    from progeo_edge.sources import open_source
    from progeo_edge.sources.images import IMAGE_SUFFIXES, FrameError, read_image
    from progeo_edge.types import Frame

    if not source.is_file() or source.suffix.lower() not in IMAGE_SUFFIXES:
        frames = open_source(source, camera=camera, **options)
        return frames, frames.camera
    try:
        return [Frame(0, read_image(source), name=source.name)], camera
    except FrameError as error:
        raise SourceError(f"image {source} cannot be used: {error}") from error


def _look(relocaliser: Relocaliser, frames: Iterable[Frame]) -> dict[int, Frame]:
    """Frames by stamp, until there is an answer or as many views as may vote."""
    looked_at: dict[int, Frame] = {}
    with progress() as bar:
        task = bar.add_task("looking round", total=None)
        for frame in frames:
            relocaliser.add(frame)
            looked_at[frame.stamp_ns] = frame
            bar.advance(task)
            if relocaliser.is_finished:
                break
    return looked_at


def _record(store: MapStore, answer: Relocalisation, looked_at: dict[int, Frame]) -> dict[str, Any]:
    from progeo_edge.outputs import closure_record
    from progeo_edge.report.words import MEANING

    match: dict[str, Any] | None = None
    if answer.match is not None and answer.query_stamp_ns is not None:
        infos = {info.id: info for info in store.infos()}
        match = closure_record(answer.match, infos)
        match["query"] = looked_at[answer.query_stamp_ns].name
        match["query_stamp_ns"] = answer.query_stamp_ns
    sessions = {session.id: session.name for session in store.sessions()}
    return {
        "status": answer.status.value,
        "meaning": "The robot is at this place." if match else MEANING[answer.status],
        "probability": answer.probability,
        "num_frames": answer.num_frames,
        "num_frames_read": len(looked_at),
        "session": answer.session,
        "session_name": None if answer.session is None else sessions[answer.session],
        "stamp_ns": answer.stamp_ns,
        "T_odom_base": None if answer.T_odom_base is None else answer.T_odom_base.tolist(),
        "match": match,
    }


def _write_picture(path: Path, store: MapStore, answer: Relocalisation, looked_at: dict[int, Frame]) -> None:
    import numpy as np

    from progeo_edge.report.pictures import draw_pair, write_picture

    assert answer.match is not None and answer.query_stamp_ns is not None
    query = looked_at[answer.query_stamp_ns].image
    reference = store.thumbnail(answer.match.reference_id)
    if reference is None:
        raise InputError(f"map {store.path} keeps no pictures (store.thumbnails=false); leave out --picture")
    verification, features = answer.match.verification, store.features(answer.match.reference_id)
    if verification is None or verification.query_px is None or verification.reference_px is None or features is None:
        write_picture(path, draw_pair(query, reference))
        return
    query_points = np.divide(verification.query_px, _size_px(query), dtype=np.float32)
    reference_points = np.divide(verification.reference_px, features.image_size_px, dtype=np.float32)
    write_picture(path, draw_pair(query, reference, query_points, reference_points))


def _size_px(image: Image) -> tuple[int, int]:
    return image.shape[1], image.shape[0]


def _print(record: dict[str, Any]) -> None:
    out = console()
    views = f"{record['num_frames']} view{'' if record['num_frames'] == 1 else 's'}"
    match = record["match"]
    if match is None:
        out.print(
            f"[bold]no match[/bold] after {views} ({record['status']}): {record['meaning']} "
            f"Best place: probability {record['probability']:.3f}",
            soft_wrap=True,
        )
        return
    out.print(f"[bold]match[/bold] with probability {record['probability']:.3f} after {views}", soft_wrap=True)
    facts = f"cosine {match['similarity']:.2f}, {match['num_inliers'] or 0} inliers, pose {match['pose_kind']}"
    where = f"keyframe {match['reference_id']} ({match['reference']}) of session {record['session_name']}: {facts}"
    out.print(where, markup=False, soft_wrap=True)
    if record["T_odom_base"] is not None:
        x, y, z = (row[3] for row in record["T_odom_base"][:3])
        out.print(f"position in that session's odometry frame: {x:.2f} {y:.2f} {z:.2f} m", soft_wrap=True)
