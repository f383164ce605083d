"""Each part of the pipeline alone, on frames held in memory, one after the other within a frame."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.benchmark.series import SeriesBook
from progeo_edge.benchmark.steps import Steps, silent
from progeo_edge.bundle import Preprocess, read_manifest
from progeo_edge.config import Config
from progeo_edge.encoders import Encoder
from progeo_edge.encoders.vlad import VladEncoder, working_image
from progeo_edge.errors import InputError
from progeo_edge.geometry import Camera, Cameras, camera_named
from progeo_edge.graph_file import open_graph
from progeo_edge.preprocess import to_model_input
from progeo_edge.types import Frame, Image, LocalFeatures
from progeo_edge.verification import Verifier
from progeo_edge.verification.features import FeatureExtractor

Part = Callable[[int], object]
"""Does the work of one part on the sample of this number."""

MAX_SAMPLES = 24
MAX_SAMPLE_BYTES = 256_000_000
MIN_SAMPLES = 4


def num_samples(frame: Frame) -> int:
    """How many frames of this size are held in memory."""
    return max(MIN_SAMPLES, min(MAX_SAMPLES, MAX_SAMPLE_BYTES // frame.image.nbytes))


def measure_parts(
    parts: Mapping[str, Part], count: int, book: SeriesBook, *, rounds: int, warmup: int, steps: Steps = silent
) -> None:
    """Run every part on every sample, in turn, so that all of them meet the same disturbance.

    Args:
        parts: By name; the series are "parts.NAME".
        count: Samples.
        book: Takes the series.
        rounds: Passes over the samples that count.
        warmup: Samples run before the first round.
        steps: Told of every sample.
    """
    for position in range(min(warmup, count)):
        for part in parts.values():
            part(position)
    tick = steps("parts alone", rounds * count)
    for _ in range(rounds):
        values: dict[str, list[float]] = {name: [] for name in parts}
        for position in range(count):
            for name, part in parts.items():
                before_ns = time.perf_counter_ns()
                part(position)
                values[name].append((time.perf_counter_ns() - before_ns) * 1e-6)
            tick()
        for name, series in values.items():
            book.add_round(f"parts.{name}", series)


def encoder_parts(
    encoder: Encoder, path: str, images: Sequence[Image], cleanup: ExitStack
) -> tuple[dict[str, Part], dict[str, str]]:
    """Resizing, the copy to the GPU, and inference of an encoder.

    "resize" is the image as the model takes it; "inference" encodes an image that has the model's size already, so
    that nothing is left to resize; "host_to_device" is the copy of one model input to the memory of the GPU, which
    "inference" holds too.

    Args:
        encoder: Open.
        path: What it was opened from.
        images: The samples.
        cleanup: Frees the memory of the GPU that a part holds.

    Returns:
        The parts, and for each that this encoder does not have the reason.
    """
    if isinstance(encoder, VladEncoder):
        small = [working_image(image) for image in images]
        parts: dict[str, Part] = {
            "resize": lambda i: working_image(images[i]),
            "inference": lambda i: encoder.encode([small[i]]),
        }
        return parts, {"parts.host_to_device": "vlad runs on the CPU"}
    spec = _preprocess_of(path)
    if spec is None:
        reason = f"{Path(path).name} states no preprocessing of its own; it is part of encode"
        missing = {f"parts.{name}": reason for name in ("resize", "host_to_device", "inference")}
        return {"encode": lambda i: encoder.encode([images[i]])}, missing
    fitting = [
        np.asarray(cv2.resize(image, (spec.width_px, spec.height_px), interpolation=cv2.INTER_AREA), np.uint8)
        for image in images
    ]
    parts = {
        "resize": lambda i: to_model_input([images[i]], spec),
        "inference": lambda i: encoder.encode([fitting[i]]),
    }
    upload = _upload(encoder, to_model_input(images[:1], spec), cleanup)
    if isinstance(upload, str):
        return parts, {"parts.host_to_device": upload}
    return {"resize": parts["resize"], "host_to_device": upload, "inference": parts["inference"]}, {}


def _preprocess_of(path: str) -> Preprocess | None:
    """None for a checkpoint, whose preprocessing torch does."""
    if Path(path).is_dir():
        return read_manifest(Path(path)).preprocess
    return None if Path(path).suffix.lower() == ".safetensors" else open_graph(Path(path)).preprocess


def _upload(encoder: Encoder, model_input: NDArray[Any], cleanup: ExitStack) -> Part | str:
    """The copy of one model input to the GPU and the wait for it, or why there is none."""
    from progeo_edge.encoders.onnx import OnnxEncoder
    from progeo_edge.encoders.tensorrt import TensorRTEncoder

    if isinstance(encoder, TensorRTEncoder):
        return _upload_by_cuda(model_input, cleanup)
    if isinstance(encoder, OnnxEncoder) and encoder.providers[:1] == ("CUDAExecutionProvider",):
        return "ONNX Runtime copies by itself; it is part of inference"
    return "the encoder runs on the CPU"


def _upload_by_cuda(model_input: NDArray[Any], cleanup: ExitStack) -> Part:
    from progeo_edge.encoders.cuda import open_gpu

    gpu = open_gpu()
    with gpu.current():
        stream, buffer = gpu.make_stream(), gpu.make_buffer(model_input.shape, model_input.dtype)

    def free() -> None:
        with gpu.current():
            buffer.free()
            stream.free()

    cleanup.callback(free)

    def upload(position: int) -> None:
        # As the encoder does it: into pinned memory, and from there to the device.
        with gpu.current():
            buffer.host[:] = model_input
            buffer.upload(len(model_input), stream)
            stream.synchronize()

    return upload


def geometry_parts(frames: Sequence[Frame], cameras: Cameras | None, config: Config) -> dict[str, Part]:
    """Local features, and the verification of a right and of a wrong candidate.

    Args:
        frames: Consecutive samples; a frame and the one before it show one place, frames half the samples apart are
            taken for two.
        cameras: Intrinsics where they are known.
        config: Its section verification.

    Raises:
        InputError: fewer than `MIN_SAMPLES` frames.
    """
    if len(frames) < MIN_SAMPLES:
        raise InputError(f"{len(frames)} frames to sample; expected at least {MIN_SAMPLES}: name a longer recording")
    extractor, verifier = FeatureExtractor(config.verification), Verifier(config.verification)
    eyes = [_camera_of(frame, cameras) for frame in frames]

    def extract(position: int) -> LocalFeatures:
        frame = frames[position]
        return extractor.extract(frame.image, camera=eyes[position], depth_m=frame.depth_m, right=frame.right)

    features = [extract(position) for position in range(len(frames))]

    def verify(position: int, other: int) -> object:
        return verifier.verify(features[position], features[other], eyes[position], eyes[other])

    half = len(frames) // 2
    return {
        "features": extract,
        "verify": lambda i: verify(i, i - 1 if i else 1),
        "reject": lambda i: verify(i, (i + half) % len(frames)),
    }


def _camera_of(frame: Frame, cameras: Cameras | None) -> Camera | None:
    camera = camera_named(cameras, frame.camera)
    height_px, width_px = frame.image.shape[:2]
    return None if camera is None else camera.for_image_size(width_px, height_px)
