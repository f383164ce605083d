"""Learn the codebook and the projection of the `vlad` encoder from folders of images.

    OPENBLAS_NUM_THREADS=1 python tools/learn_vlad.py --train ../shared/data/train --seed 10 -o vlad64_512.npz

The same images, seed, machine and number of threads give the same file. The projection is PCA, preceded by whitening
of what changes between two views of one place (the "learned whitening" of Mikolajczyk and Matas, "Improving Descriptors
for Fast Tree Matching by Optimal Linear Projection", ICCV 2007). Two views of one place are neighbours of a sequence
(images of one folder, next to each other by name, that differ only in their last number), and an image beside synthetic
views of it.

About three minutes for 4200 images on one core; needs scipy, and 3 GB of memory.
"""

from __future__ import annotations

import argparse
import re
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from rich.progress import Progress, track

from progeo_edge.atomic import replacing
from progeo_edge.encoders.vlad import (
    LOCAL_DIMENSION,
    SHIPPED_MODEL,
    aggregate,
    dense_rootsift,
    fingerprint,
    load_model,
    working_image,
)
from progeo_edge.types import Image

FloatArray = NDArray[np.float32]

NUM_WORDS = 64
DIMENSION = 512
LOCAL_PER_IMAGE = 40
KMEANS_ITERATIONS = 15
NUM_VIEWS = 2
PCA_DIMENSION = 2048
SHRINKAGE = 0.5
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm"}


def main() -> None:
    """Read all images, cluster a sample of local descriptors, learn the projection, write one npz."""
    arguments = _parse_arguments()
    paths = sorted(path for path in arguments.train.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    images = [_read(path) for path in track(paths, "reading")]
    if len(images) < DIMENSION:
        raise SystemExit(f"{arguments.train} holds {len(images)} images; at least {DIMENSION} are needed, better 4000")
    codebook = learn_codebook(images, arguments.seed)
    vlads = describe_views(images, codebook)
    projection, offset = learn_projection(vlads, neighbours(paths))
    save(arguments.output, codebook, projection, offset)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Learn the model of the vlad encoder from folders of images.")
    parser.add_argument("--train", type=Path, default=Path("../shared/data/train"), help="searched at any depth")
    parser.add_argument("--seed", type=int, default=10, help="of the codebook; 10 is the shipped one")
    parser.add_argument("-o", "--output", type=Path, default=SHIPPED_MODEL)
    return parser.parse_args()


def _read(path: Path) -> Image:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SystemExit(f"{path} cannot be read as an image; remove it")
    return working_image(np.asarray(image, np.uint8))


def learn_codebook(images: list[Image], seed: int) -> FloatArray:
    """k-means over a sample of local descriptors: (NUM_WORDS, 128)."""
    rng = np.random.default_rng(seed)
    drawn = []
    for image in track(images, "sampling local descriptors"):
        local = dense_rootsift(image)
        drawn.append(local[rng.permutation(len(local))[:LOCAL_PER_IMAGE]])
    sample = np.concatenate(drawn)
    words = sample[rng.choice(len(sample), NUM_WORDS, replace=False)]
    for _ in track(range(KMEANS_ITERATIONS), "clustering"):
        nearest = np.argmax(sample @ words.T - 0.5 * np.sum(words * words, axis=1), axis=1)
        words = np.stack([_mean_or(sample[nearest == k], words[k]) for k in range(NUM_WORDS)])
    return words.astype(np.float32)


def _mean_or(members: FloatArray, word: FloatArray) -> FloatArray:
    return members.mean(axis=0, dtype=np.float64).astype(np.float32) if len(members) else word


def describe_views(images: list[Image], codebook: FloatArray) -> FloatArray:
    """VLADs of the images and of their synthetic views: (1 + NUM_VIEWS, N, K * 128)."""
    vlads = np.empty((1 + NUM_VIEWS, len(images), codebook.size), np.float32)
    for i, image in enumerate(track(images, "describing")):
        rng = np.random.default_rng(i)
        views = [image, *(synthetic_view(image, rng) for _ in range(NUM_VIEWS))]
        vlads[:, i] = [aggregate(dense_rootsift(view), codebook) for view in views]
    return vlads


def synthetic_view(grey: Image, rng: np.random.Generator) -> Image:
    """The place from elsewhere and in other light: homography, gamma, contrast, blur and noise."""
    warped = cv2.warpPerspective(
        grey, _random_homography(grey.shape, rng), grey.shape[::-1], borderMode=cv2.BORDER_REPLICATE
    )
    light = 255.0 * (warped / 255.0) ** np.exp(rng.uniform(-0.6, 0.6))
    light = (light - 128.0) * rng.uniform(0.5, 1.3) + 128.0 + rng.uniform(-30.0, 30.0)
    if rng.random() < 0.4:
        light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.5, 1.5))
    if rng.random() < 0.5:
        light = light + rng.normal(0.0, rng.uniform(1.0, 7.0), light.shape)
    return np.asarray(np.clip(light, 0, 255), np.uint8)


def _random_homography(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    size = np.array([shape[1], shape[0]], dtype=np.float64)
    corners = size * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    zoom, angle = np.exp(rng.uniform(-0.2, 0.2)), np.deg2rad(rng.uniform(-4.0, 4.0))
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = size * rng.uniform(-0.12, 0.12, 2) * [1.0, 0.6]
    moved = (corners - size / 2) @ turn.T + size / 2 + shift + size * rng.uniform(-0.06, 0.06, (4, 2))
    homography = cv2.getPerspectiveTransform(corners.astype(np.float32), moved.astype(np.float32))
    return np.asarray(homography, np.float64)


def neighbours(paths: list[Path]) -> NDArray[np.intp]:
    """Indices i for which images i and i + 1 follow each other in one sequence."""
    series = [(path.parent, re.sub(r"\d+$", "", path.stem)) for path in paths]
    return np.array([i for i in range(len(paths) - 1) if series[i] == series[i + 1]], dtype=np.intp)


def learn_projection(vlads: FloatArray, following: NDArray[np.intp]) -> tuple[FloatArray, FloatArray]:
    """Affine map from VLAD to descriptor: (DIMENSION, K * 128) and (DIMENSION,).

    Args:
        vlads: (1 + NUM_VIEWS, N, K * 128); 0 is the image itself, the others its synthetic views.
        following: Indices i whose image shows the same place as image i + 1.
    """
    with Progress() as progress:
        task = progress.add_task("projection", total=3)
        mean, basis = principal_components(np.concatenate([vlads[0], vlads[1]]), PCA_DIMENSION)
        progress.advance(task)
        reduced = np.asarray((vlads - mean) @ basis, np.float32)
        whitening = _within_place_whitening(reduced, following)
        progress.advance(task)
        white = np.concatenate([reduced[0], reduced[1]]) @ whitening
        top = scipy.linalg.eigh(
            white.T @ white, subset_by_index=[white.shape[1] - DIMENSION, white.shape[1] - 1], driver="evr"
        )[1][:, ::-1]
        projection = (basis @ (whitening @ top)).T
        progress.advance(task)
    # The overall scale vanishes in the normalisation; this one uses the range of half precision well.
    projection = np.asarray(projection / np.abs(projection).max(), np.float32)
    return projection, np.asarray(-projection @ mean, np.float32)


def principal_components(rows: FloatArray, count: int) -> tuple[FloatArray, FloatArray]:
    """Mean (M,) and the first principal directions (M, count) of rows (N, M), through the N x N Gram matrix."""
    mean = rows.mean(axis=0)
    centred = rows - mean
    count = min(count, len(rows) - 1)
    variances, left = scipy.linalg.eigh(centred @ centred.T, subset_by_index=[len(rows) - count, len(rows) - 1])
    return mean, np.asarray((centred.T @ left[:, ::-1]) / np.sqrt(variances[::-1]), np.float32)


def _within_place_whitening(reduced: FloatArray, following: NDArray[np.intp]) -> FloatArray:
    images, *views = reduced
    differences = [images[following] - images[following + 1], images - views[0]]
    differences += [a - b for a, b in pairwise(views)]
    changes = np.concatenate(differences)
    covariance = changes.T @ changes / len(changes)
    covariance += SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance), dtype=np.float32)
    variances, directions = np.linalg.eigh(covariance)
    return np.asarray(directions / np.sqrt(variances), np.float32)


def save(path: Path, codebook: FloatArray, projection: FloatArray, offset: FloatArray) -> None:
    """Write the npz atomically, then read it back as the encoder will."""
    with replacing(path) as temporary:
        np.savez(temporary, codebook=codebook, projection=projection.astype(np.float16), offset=offset)
    model = load_model(path)
    assert model.codebook.shape[1] == LOCAL_DIMENSION
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, fingerprint {fingerprint(model)}")


if __name__ == "__main__":
    main()
