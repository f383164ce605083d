"""Recordings for `tools/verification_table.py`: real ones with labels, and a rendered one with the truth."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge.encoders import load_encoder
from progeo_edge.geometry import Camera
from progeo_edge.types import Image, Transform
from progeo_edge.world import StreetWorld, WorldSource, forward_camera, is_same_place, simulate_drive

_SIFT_INLIERS = 30


@dataclass
class Recording:
    """Images, what is known of them, and which frames show one place: 1 yes, 0 no, -1 not to be judged."""

    name: str
    images: list[Image]
    labels: NDArray[np.int64]
    earliest_gap: int
    camera: Camera | None = None
    depth_m: list[NDArray[np.float32] | None] | None = None


def rendered_street() -> Recording:
    """640x480 with depth and intrinsics; two laps."""
    world, camera = StreetWorld(0), forward_camera()
    frames = list(WorldSource(world, simulate_drive(world, 0, frame_rate_hz=1.0), camera, depth=True))
    poses = [step.T_world_base for step in simulate_drive(world, 0, frame_rate_hz=1.0)]
    labels = np.array([[label_of(a, b) for b in poses] for a in poses])
    return Recording(
        "rendered street, depth", [f.image for f in frames], labels, 20, camera, [f.depth_m for f in frames]
    )


def label_of(T_world_a: Transform, T_world_b: Transform) -> int:
    """Of two rendered views; what lies between near and far is not judged."""
    if is_same_place(T_world_a, T_world_b, max_distance_m=5.0):
        return 1
    return -1 if is_same_place(T_world_a, T_world_b, max_distance_m=20.0, max_angle_deg=180.0) else 0


def street_walk(dev: Path) -> Recording:
    """480x640 photographs of buildings; pairs are known where SIFT finds 30 inliers, and nothing is known to differ."""
    folder = dev / "moscow_street_buildings"
    paths = sorted((folder / "database").glob("*.jpg"))
    number = {f"database/{path.name}": i for i, path in enumerate(paths)}
    labels = np.full((len(paths), len(paths)), -1)
    with (folder / "sift_pairs.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["image_a"] in number and row["image_b"] in number and int(row["inliers"]) >= _SIFT_INLIERS:
                a, b = number[row["image_a"]], number[row["image_b"]]
                labels[a, b] = labels[b, a] = 1
    return Recording("street walk", [read(path) for path in paths], labels, 1)


def hall(dev: Path) -> Recording:
    """160x120 of a small car's laps, labelled."""
    folder = dev / "donkeycar_room_laps"
    with (folder / "keyframes.csv").open(encoding="utf-8") as file:
        names = [row["image"] for row in csv.DictReader(file)]
    number = {name: i for i, name in enumerate(names)}
    labels = np.zeros((len(names), len(names)), dtype=np.int64)
    with (folder / "matches.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["query"] in number and row["earlier"] in number:
                a, b = number[row["query"]], number[row["earlier"]]
                labels[a, b] = labels[b, a] = 1 if row["label"] == "positive" else -1
    return Recording("hall, 160x120", [read(folder / name) for name in names], labels, 5)


def read(path: Path) -> Image:
    """Colour image."""
    return cast(Image, cv2.imread(str(path), cv2.IMREAD_COLOR))


def candidates_of(recording: Recording, num_queries: int, num_candidates: int) -> list[tuple[int, list[int]]]:
    """The most similar earlier frames of queries that are spread over the second half."""
    encoder = load_encoder("vlad")
    descriptors = np.concatenate([encoder.encode([image]) for image in recording.images])
    half = len(recording.images) // 2
    queries = np.unique(np.linspace(half, len(recording.images) - 1, num_queries).astype(int))
    chosen = []
    for query in queries:
        earlier = descriptors[: query - recording.earliest_gap]
        chosen.append((int(query), [int(r) for r in np.argsort(-(earlier @ descriptors[query]))[:num_candidates]]))
    return chosen
