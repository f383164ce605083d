from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.encoders import Encoder
from progeo_edge.errors import InputError
from progeo_edge.evaluation.baselines import (
    OrbBowEncoder,
    ThumbnailEncoder,
    assign_words,
    describe_orb,
    load_orb_words,
    make_orb,
)

ROOT = Path(__file__).resolve().parents[2]


def _scene(seed, height=120, width=160):
    """Smooth random texture, corners everywhere and none alike."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    return np.clip(128 + 250 * smooth, 0, 255).astype(np.uint8)


@pytest.fixture(params=["thumbnail", "orb-bow"])
def encoder(request) -> Encoder:
    return ThumbnailEncoder() if request.param == "thumbnail" else OrbBowEncoder()


def test_rows_are_unit_for_any_image(encoder):
    images = [
        _scene(0),
        _scene(1)[:, :, 0],
        np.zeros((50, 70, 3), np.uint8),
        np.full((1, 1), 255, np.uint8),
        _scene(2, 30, 900),
    ]
    descriptors = encoder.encode(images)
    assert descriptors.shape == (5, encoder.spec.dimension) and descriptors.dtype == np.float32
    assert np.linalg.norm(descriptors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert encoder.encode([]).shape == (0, encoder.spec.dimension)
    encoder.close()


def test_the_same_scene_is_nearer_than_another(encoder):
    scene = _scene(0)
    changed = np.asarray(cv2.convertScaleAbs(scene, alpha=0.9, beta=10), np.uint8)
    asked, same, other = encoder.encode([scene, changed, _scene(5)])
    assert asked @ same > asked @ other + 0.2


def test_grey_and_its_colour_copy_are_one_image(encoder):
    grey = _scene(3)[:, :, 1].copy()
    colour = np.repeat(grey[:, :, None], 3, axis=2)
    first, second = encoder.encode([grey, colour])
    assert first @ second == pytest.approx(1.0, abs=1e-5)


def test_what_is_no_image_is_refused(encoder):
    for bad in (np.zeros((4, 4), np.float32), np.zeros((0, 4), np.uint8), np.zeros((1, 4, 4, 3), np.uint8)):
        with pytest.raises(InputError, match=r"expected \(H, W\) or \(H, W, 3\) uint8"):
            encoder.encode([bad])


def test_thumbnail_ignores_brightness_and_contrast():
    scene = _scene(0)[:, :, 0]
    dark = (scene // 2 + 20).astype(np.uint8)
    first, second = ThumbnailEncoder().encode([scene, dark])
    assert first @ second > 0.99


def test_fingerprints_are_stable_and_differ():
    assert ThumbnailEncoder().spec == ThumbnailEncoder().spec
    assert OrbBowEncoder().spec == OrbBowEncoder().spec
    assert ThumbnailEncoder().spec.fingerprint != OrbBowEncoder().spec.fingerprint


def test_blank_images_resemble_each_other_and_nothing_else():
    blank, white, scene = OrbBowEncoder().encode(
        [np.zeros((60, 80), np.uint8), np.full((60, 80), 255, np.uint8), _scene(0)]
    )
    assert blank @ white == 1.0
    assert blank @ scene == 0.0


def test_the_shipped_vocabulary():
    words, idf = load_orb_words()
    assert words.shape == (4096, 32) and words.dtype == np.uint8
    assert idf.shape == (4096,) and np.isfinite(idf).all() and (idf >= 0).all()
    assert len(np.unique(words, axis=0)) > 4090
    assert (ROOT / "progeo_edge/evaluation/orb_words.npz").stat().st_size < 200_000


@given(seed=st.integers(0, 1000))
def test_words_are_the_nearest_in_hamming_distance(seed):
    rng = np.random.default_rng(seed)
    words, descriptors = (rng.integers(0, 256, (count, 32)).astype(np.uint8) for count in (20, 7))
    distances = np.unpackbits(words[None] ^ descriptors[:, None], axis=2).sum(axis=2)
    chosen = assign_words(descriptors, words)
    assert np.array_equal(distances[np.arange(7), chosen], distances.min(axis=1))


def test_descriptors_are_weighted_by_rarity():
    words, idf = load_orb_words()
    scene = _scene(0)
    counts = np.bincount(assign_words(describe_orb(scene, make_orb()), words), minlength=4096)
    expected = counts * idf
    descriptor = OrbBowEncoder().encode([scene])[0]
    assert descriptor[:-1] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)


def test_the_vocabulary_tool_learns_from_a_folder(tmp_path):
    for seed in range(4):
        cv2.imwrite(str(tmp_path / f"{seed}.jpg"), _scene(seed))
    out = tmp_path / "words.npz"
    tool = ROOT / "tools/learn_orb_vocabulary.py"
    command = [sys.executable, str(tool), str(tmp_path), "--out", str(out), "--words", "16", "--iterations", "2"]
    subprocess.run(command, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True)
    with np.load(out, allow_pickle=False) as data:
        assert data["words"].shape == (16, 32)
        assert (data["idf"] >= 0).all() and data["idf"].max() <= np.log(4) + 1e-3
