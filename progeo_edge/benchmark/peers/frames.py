"""What all peers share that turn a frame into candidates: the frames, the steps, and the search by NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from progeo_edge.benchmark.peers.peer import Step
from progeo_edge.types import Image

CANDIDATES, ENCODER, DESCRIPTOR = "candidates", "encoder", "descriptor"
PREPARE, RESIZED = "prepare", "resized"
TOP_K = 20
"""Candidates per query, as the detector asks for by default."""

Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]


def size_name(width_px: int, height_px: int) -> str:
    """How frames of a size are called in settings and steps: "640x480"."""
    return f"{width_px}x{height_px}"


def frame_steps(
    settings: Mapping[str, Any],
    *,
    prepare: Callable[[Image], Any] | None,
    infer: Callable[[Any], NDArray[np.float32]] | None = None,
    describe: Callable[[Image], NDArray[np.float32]] | None = None,
    encoder_input: Callable[[Image], Any] | None = None,
    resized: Callable[[Image], Image] | None = None,
    search: Search | None = None,
) -> dict[str, Step]:
    """The steps of a peer, as far as it can do them.

    Args:
        settings: "frames" names the .npy file of the frames of each size; the first size is that of the whole way.
        prepare: Frame to model input, the step "prepare WxH".
        infer: Model input to descriptor, the step "encoder"; its input is made beforehand, once per frame.
        describe: Frame to descriptor; None for `prepare`, then `infer`.
        encoder_input: What `infer` takes, made of a frame; None for `prepare`.
        resized: Frame to the pixels that the model sees, (height_px, width_px, 3) BGR uint8, not timed.
        search: Descriptor to ids of candidates, the last part of the step "candidates".
    """
    frames = {size: np.load(path, allow_pickle=False) for size, path in settings["frames"].items()}
    first = next(iter(frames.values()))
    steps: dict[str, Step] = {}
    for size, images in frames.items():
        if prepare is not None:
            steps[f"{PREPARE} {size}"] = _on(images, prepare)
        if resized is not None:
            steps[f"{RESIZED} {size}"] = _on(images, resized)
    if infer is None:
        return steps
    if describe is None and prepare is not None:
        describe = _chain(prepare, infer)
    if describe is not None:
        steps[DESCRIPTOR] = _on(first, describe)
        if search is not None:
            steps[CANDIDATES] = _on(first, _chain(describe, search))
    made = encoder_input or prepare
    if made is not None:
        steps[ENCODER] = _prepared(first, made, infer)
    return steps


def numpy_search(settings: Mapping[str, Any]) -> Search | None:
    """Exact search as everybody writes it: product, argpartition, sort. None without a database in the settings."""
    if "database" not in settings:
        return None
    database = np.array(np.load(settings["database"], allow_pickle=False))
    return lambda descriptor: search_product(database, descriptor, TOP_K)


def search_product(database: NDArray[np.float32], query: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """(k,) rows of a (N, D) database by descending inner product with a (D,) query; k at most N."""
    similarities = database @ query
    k = min(k, len(similarities))
    nearest = np.argpartition(-similarities, k - 1)[:k]
    return np.asarray(nearest[np.argsort(-similarities[nearest])], dtype=np.int64)


def _on(images: NDArray[np.uint8], work: Callable[[Image], Any]) -> Step:
    return lambda item: work(images[item % len(images)])


def _chain(first: Callable[[Any], Any], then: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: then(first(value))


def _prepared(images: NDArray[np.uint8], make: Callable[[Image], Any], infer: Callable[[Any], Any]) -> Step:
    """Inference alone: its inputs are made when they are first asked for, which the warm-up does."""
    made: dict[int, Any] = {}

    def step(item: int) -> Any:  # noqa: ANN401 - whatever the peer's inference gives
        number = item % len(images)
        if number not in made:
            made[number] = make(images[number])
        return infer(made[number])

    return step
