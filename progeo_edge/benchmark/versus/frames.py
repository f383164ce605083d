"""Frame to candidates, the encoder alone, and the preprocessing alone, by the same processes in one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from progeo_edge.benchmark.peers.frames import CANDIDATES, DESCRIPTOR, ENCODER, PREPARE, RESIZED, TOP_K, size_name
from progeo_edge.benchmark.versus import contenders
from progeo_edge.benchmark.versus.comparison import Comparison, Row
from progeo_edge.benchmark.versus.inputs import Frames, save, spread_of_places, tiled
from progeo_edge.benchmark.versus.interleaving import Contender, Field, Progress, answers_of, measure, opened
from progeo_edge.benchmark.versus.job import Job
from progeo_edge.errors import InputError

CAMERA, LARGE = (640, 480), (1280, 720)
"""Sizes of frames in pixels: that of the whole way first."""

RECALL, COSINE, MOVED = f"recall@{TOP_K}", "cosine", "moved %"

_NOTE = (
    "what the graph takes comes out, unless float32 is said; cv2 linear is not antialiased; moved: what the pixels do "
    "to the descriptors of one encoder, against those of PIL, in percent of the mean distance between the frames"
)


def compare_frames(job: Job, frames: Frames, progress: Progress) -> list[Comparison]:
    """Everything about frames that the job asks for.

    Raises:
        InputError: none of ours could be opened, so that there is nothing to compare with.
    """
    with TemporaryDirectory(prefix="progeo-bench-") as name:
        folder = Path(name)
        files = {
            size_name(*size): save(folder / f"{size_name(*size)}.npy", frames.of_size(*size))
            for size in (CAMERA, LARGE)
        }
        reference, descriptors = describe_frames(job, files[size_name(*CAMERA)], len(frames.images), progress)
        database = tiled(descriptors, job.num_database)
        common = {"frames": files, "database": save(folder / "database.npy", database)}
        entrants, absent = _entrants(job, common)
        with opened(entrants, threads=job.threads, absent=absent, progress=progress) as entered:
            comparisons = []
            if "frame" in job.parts:
                comparisons.append(_whole_way(job, entered, database, frames, progress))
            if "encoder" in job.parts:
                comparisons.append(_encoder(job, entered, frames, progress))
            if "resize" in job.parts and job.preprocess is not None:
                differences = _differences(job, entered, reference, folder, len(frames.images), progress)
                comparisons += [
                    _preprocessing(job, entered, size, differences.get(size, {}), frames, progress) for size in files
                ]
    return comparisons


def _entrants(job: Job, common: Mapping[str, object]) -> tuple[list[Contender], dict[str, str]]:
    by_onnx, without_onnx = contenders.onnx_defaults(job, **common)
    if {"frame", "encoder"}.isdisjoint(job.parts):
        job = replace(job, compiled=False)
    by_others, without_others = contenders.offered(job, **common)
    entrants = [*contenders.ours(job, **common), *by_onnx, *by_others]
    if "resize" in job.parts and job.preprocess is not None:
        entrants += contenders.resizers(job, frames=common["frames"])
    return entrants, without_onnx | without_others


def describe_frames(
    job: Job, frames_file: str, count: int, progress: Progress
) -> tuple[Contender, NDArray[np.float32]]:
    """The first of ours that works, and its descriptors of all frames."""
    reasons = []
    for contender in contenders.ours(job, frames={"frames": frames_file}):
        with opened([contender], threads=job.threads, absent={}, progress=progress) as entered:
            if contender.name in entered.peers:
                answers = answers_of(entered, contender.name, DESCRIPTOR, range(count))
                if answers is not None:
                    return contender, np.stack(answers).astype(np.float32)
            reasons.append(f"{contender.name}: {entered.absent[contender.name]}")
    raise InputError(f"model {job.model} cannot be compared, as none of ours runs it: {'; '.join(reasons)}")


def _whole_way(
    job: Job, entered: Field, database: NDArray[np.float32], frames: Frames, progress: Progress
) -> Comparison:
    rows = measure(entered, CANDIDATES, job.pace, progress=progress)
    agreements, reference = _agreement(entered, [row.name for row in rows], database, len(frames.images))
    size = size_name(*CAMERA)
    return Comparison(
        group="frame to candidates",
        case=f"{size} BGR frame, {len(database)} keyframes, {job.threads} threads",
        rows=_with_agreement(rows, agreements),
        absent=entered.absent_but(contenders.PIL, contenders.CV2),
        notes=(
            f"frames: {len(frames.images)} of {frames.origin}, brought to {size}",
            "the database holds descriptors of these frames, tiled and perturbed",
            f"{RECALL}: of the search, against float64; {COSINE}: of the descriptor, to that of {reference}",
            *_random_weights(entered),
        ),
    )


def _agreement(
    entered: Field, names: Sequence[str], database: NDArray[np.float32], count: int
) -> tuple[dict[str, dict[str, float]], str]:
    """Does the search find what float64 finds, and is the descriptor that of the torch model, or of our first one?

    Returns:
        Figures by contender, and whose descriptor the others are compared with.
    """
    descriptors: dict[str, NDArray[np.float64]] = {}
    agreements: dict[str, dict[str, float]] = {}
    for name in names:
        described = answers_of(entered, name, DESCRIPTOR, range(count))
        found = answers_of(entered, name, CANDIDATES, range(count)) if described is not None else None
        if described is None or found is None:
            continue
        descriptors[name] = np.stack(described).astype(np.float64)
        agreements[name] = {RECALL: _recall(database, descriptors[name], found)}
    known = [name for name in descriptors if not entered.peers[name].facts.get("random_weights")]
    reference = contenders.TORCH_EAGER if contenders.TORCH_EAGER in known else next(iter(known), None)
    for name in known:
        cosines = np.sum(descriptors[name] * descriptors[str(reference)], axis=1)
        agreements[name][COSINE] = float(cosines.mean())
    return agreements, reference or "nobody"


def _recall(
    database: NDArray[np.float32], descriptors: NDArray[np.float64], found: Sequence[NDArray[np.int64]]
) -> float:
    """Share of the exact nearest that was returned; by similarity, as any of several equal ones is right."""
    similarities = descriptors @ database.astype(np.float64).T
    shares = []
    for row, ids in zip(similarities, found, strict=True):
        k = min(TOP_K, len(row))
        shares.append(np.count_nonzero(row[ids] >= np.sort(row)[-k] - 1e-6) / k)
    return float(np.mean(shares))


def _encoder(job: Job, entered: Field, frames: Frames, progress: Progress) -> Comparison:
    rows = measure(entered, ENCODER, job.pace, progress=progress)
    return Comparison(
        group="encoder alone",
        case=f"model input to descriptor, {job.threads} threads",
        rows=tuple(rows),
        absent=entered.absent_but(contenders.PIL, contenders.CV2),
        notes=(
            "ours is given frames of the model's size, which are not resized",
            *_random_weights(entered),
        ),
    )


def _preprocessing(
    job: Job, entered: Field, size: str, differences: Mapping[str, float], frames: Frames, progress: Progress
) -> Comparison:
    rows = measure(entered, f"{PREPARE} {size}", job.pace, progress=progress)
    kept = _one_of_each(rows)
    return Comparison(
        group="preprocessing alone",
        case=f"{size} frame to model input",
        rows=_with_agreement(kept, {name: {MOVED: value} for name, value in differences.items()}),
        absent=entered.absent_but("ours", contenders.ORT_DEFAULT, contenders.TORCH_COMPILE),
        notes=(f"frames: {len(frames.images)} of {frames.origin}, brought to {size}", _NOTE),
    )


def _one_of_each(rows: Sequence[Row]) -> list[Row]:
    """Backends and precisions of ours share their preprocessing, and so do the two sessions and the two torches."""
    first_of_ours = next((row.name for row in rows if row.is_ours), None)
    left_out = (contenders.ORT_DEFAULT, contenders.TORCH_COMPILE)
    return [row for row in rows if row.name == first_of_ours or not (row.is_ours or row.name.startswith(left_out))]


def _differences(
    job: Job, entered: Field, reference: Contender, folder: Path, count: int, progress: Progress
) -> dict[str, dict[str, float]]:
    """By size and contender: how far its pixels move a descriptor, in percent of the distance between places.

    All pixels are described by the same encoder; what they are compared with are Pillow's bicubic ones.
    """
    made: dict[tuple[str, str], NDArray[np.uint8]] = {}
    for size in (size_name(*CAMERA), size_name(*LARGE)):
        for name in entered.able(f"{RESIZED} {size}"):
            pixels = answers_of(entered, name, f"{RESIZED} {size}", range(count))
            if pixels is not None:
                made[size, name] = np.stack(pixels)
    described = _describe_pixels(job, reference, made, folder, progress)
    result: dict[str, dict[str, float]] = {}
    for (size, name), rows in described.items():
        base = next((described[at] for at in described if at[0] == size and at[1].startswith(contenders.PIL)), None)
        if base is not None:
            moved = 0.5 * np.mean(np.sum((rows - base) ** 2, axis=1))  # 1 - cosine, exactly 0 for equal rows
            result.setdefault(size, {})[name] = float(100.0 * moved / spread_of_places(base))
    return result


def _describe_pixels(
    job: Job,
    reference: Contender,
    made: Mapping[tuple[str, str], NDArray[np.uint8]],
    folder: Path,
    progress: Progress,
) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Descriptors of images that have the model's size already, all by one process of the reference."""
    if not made:
        return {}
    whole = np.concatenate(list(made.values()))
    settings = {**reference.settings, "frames": {"pixels": save(folder / "pixels.npy", whole)}}
    with opened([replace(reference, settings=settings)], threads=job.threads, absent={}, progress=progress) as one:
        if not one.peers:
            return {}
        answers = answers_of(one, reference.name, DESCRIPTOR, range(len(whole)))
    if answers is None:
        return {}
    ends = np.cumsum([len(images) for images in made.values()])[:-1]
    return dict(zip(made, np.split(np.stack(answers).astype(np.float64), ends), strict=True))


def _with_agreement(rows: Sequence[Row], agreements: Mapping[str, Mapping[str, float]]) -> tuple[Row, ...]:
    return tuple(replace(row, agreement=agreements.get(row.name, {})) for row in rows)


def _random_weights(entered: Field) -> tuple[str, ...]:
    named = [name for name, peer in entered.peers.items() if peer.facts.get("random_weights")]
    if not named:
        return ()
    return (f"{', '.join(named)}: random weights of the same architecture; same time, descriptors without meaning",)
