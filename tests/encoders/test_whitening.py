"""Whitening: what it does to descriptors, which model it makes, and what files it refuses."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.bundle import ModelSpec
from progeo_edge.detector import LoopDetector
from progeo_edge.encoders import load_encoder
from progeo_edge.encoders.whitening import (
    ENOUGH_FRAMES,
    WhitenedEncoder,
    Whitening,
    fit_whitening,
    load_whitening,
    save_whitening,
)
from progeo_edge.errors import InputError, MapError, ModelError
from progeo_edge.map_store import MapStore
from tests.small_world import FakeEncoder, two_passes

WIDE, KEPT = 16, 6
SPEC = ModelSpec("plain", WIDE, "ab" * 32)


def one_sided(count: int = 400, seed: int = 0) -> np.ndarray:
    """Unit vectors that share most of their direction, with spreads that differ from axis to axis."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, WIDE)) * np.linspace(0.02, 0.4, WIDE) + 1.0
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def whitening() -> Whitening:
    return fit_whitening(one_sided(), SPEC, dimension=KEPT)


@pytest.fixture
def file(whitening: Whitening, tmp_path: Path) -> Path:
    path = tmp_path / "site.whitening"
    save_whitening(path, whitening)
    return path


# -- what it does ------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.floats(0, 10))
def test_rows_have_unit_norm_and_do_not_depend_on_each_other(whitening, seed, count, scale):
    rows = (scale * np.random.default_rng(seed).normal(size=(count, WIDE))).astype(np.float32)
    found = whitening.apply(rows)
    assert found.shape == (count, KEPT) and found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)
    for row, alone in zip(rows, found, strict=True):
        assert np.allclose(whitening.apply(row[None])[0], alone, atol=1e-4)


def test_the_mean_becomes_one_fixed_unit_vector(whitening):
    found = whitening.apply(np.stack([whitening.mean, whitening.mean]))
    assert np.array_equal(found[0], found[1])
    assert np.isclose(np.linalg.norm(found[0]), 1.0)


def test_without_shrinkage_every_axis_has_the_same_spread():
    descriptors = one_sided(5000)
    fitted = fit_whitening(descriptors, SPEC, dimension=KEPT, shrinkage=0.0)
    projected = (descriptors - fitted.mean) @ fitted.projection.T
    assert np.allclose(np.cov(projected.T, bias=True), np.eye(KEPT), atol=0.01)


def test_shrinkage_divides_by_the_root_of_variance_plus_a_share_of_the_largest():
    descriptors = one_sided(5000)
    fitted = fit_whitening(descriptors, SPEC, dimension=KEPT, shrinkage=0.25)
    variances = np.sort(np.linalg.eigvalsh(np.cov(descriptors.astype(float).T, bias=True)))[::-1][:KEPT]
    spreads = np.var((descriptors - fitted.mean) @ fitted.projection.T, axis=0)
    assert np.allclose(spreads, variances / (variances + 0.25 * variances[0]), rtol=1e-3)


def test_different_places_come_apart():
    train, test = one_sided(seed=1), one_sided(seed=2)
    plain = (test @ test.T)[np.triu_indices(len(test), 1)]
    white = fit_whitening(train, SPEC).apply(test)
    assert plain.mean() > 0.9
    assert abs((white @ white.T)[np.triu_indices(len(test), 1)].mean()) < 0.05


def test_half_the_width_is_kept_when_nothing_is_said():
    assert fit_whitening(one_sided(), SPEC).header.dimension == WIDE // 2


@pytest.mark.parametrize(
    ("descriptors", "options", "message"),
    [
        (one_sided(11), {"dimension": 6}, "11 frames are too few to learn 6 axes.* at least 12"),
        (one_sided(), {"dimension": WIDE + 1}, "dimension 17 .* not between 1 and 16"),
        (one_sided(), {"dimension": 0}, "dimension 0"),
        (one_sided(), {"shrinkage": -0.1}, "shrinkage -0.1"),
        (one_sided()[:, :5], {}, r"expected finite \(N, 16\)"),
        (one_sided() * np.nan, {}, "expected finite"),
        (np.ones((50, WIDE), np.float32), {}, "all 50 descriptors are the same"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(descriptors, options, message):
    with pytest.raises(InputError, match=message):
        fit_whitening(descriptors, SPEC, **options)


def test_few_frames_are_warned_about(caplog):
    with caplog.at_level(logging.WARNING):
        fit_whitening(one_sided(ENOUGH_FRAMES), SPEC)
        assert caplog.text == ""
        fit_whitening(one_sided(ENOUGH_FRAMES - 1), SPEC)
    assert f"from {ENOUGH_FRAMES - 1} frames only" in caplog.text


# -- which model it makes ----------------------------------------------------------------------------------------


def test_the_two_together_are_another_model(whitening):
    encoder = WhitenedEncoder(FakeEncoder(list(one_sided(4)), SPEC), whitening)
    assert (encoder.spec.name, encoder.spec.dimension) == ("plain+white6", KEPT)
    image = np.zeros((4, 4, 3), np.uint8)
    assert np.allclose(encoder.encode([image] * 4), whitening.apply(one_sided(4)))
    others = [
        fit_whitening(one_sided(seed=3), SPEC, dimension=KEPT),
        fit_whitening(one_sided(), SPEC, dimension=KEPT, shrinkage=0.02),
        fit_whitening(one_sided(), SPEC, dimension=KEPT - 1),
    ]
    prints = {WhitenedEncoder(FakeEncoder([], SPEC), other).spec.fingerprint for other in (*others, whitening)}
    assert len({*prints, SPEC.fingerprint}) == 5
    again = WhitenedEncoder(FakeEncoder([], SPEC), fit_whitening(one_sided(), SPEC, dimension=KEPT))
    assert again.spec == encoder.spec


def test_a_whitening_of_another_model_is_refused(whitening):
    other = ModelSpec("other", WIDE, "cd" * 32)
    with pytest.raises(ModelError, match=r"learned for model plain .* encoder is other"):
        WhitenedEncoder(FakeEncoder([], other), whitening)


def test_maps_of_the_plain_and_of_the_whitened_encoder_do_not_mix(tmp_path):
    plain = load_encoder("vlad")
    frames = [frame.image for frame in two_passes()[0]]
    path = tmp_path / "street.whitening"
    save_whitening(path, fit_whitening(plain.encode(frames), plain.spec, dimension=6))
    encoder = load_encoder("vlad", whitening=path)
    found = encoder.encode(frames[:2])
    assert found.shape == (2, 6) and np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)
    with MapStore.create(None, encoder.spec) as store, pytest.raises(MapError, match="cannot be compared"):
        LoopDetector(plain, store)
    encoder.close()


# -- the file ----------------------------------------------------------------------------------------------------


def test_a_file_comes_back_as_it_was(whitening, file):
    read = load_whitening(file)
    assert read.header == whitening.header
    assert np.array_equal(read.mean, whitening.mean) and np.array_equal(read.projection, whitening.projection)
    assert read.to_bytes() == file.read_bytes()


@given(data=st.data())
def test_a_changed_byte_is_refused(whitening, tmp_path_factory, data):
    content = bytearray(whitening.to_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("altered") / "w"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        load_whitening(path)


@given(st.integers(0, 500))
def test_a_file_cut_short_is_refused(whitening, tmp_path_factory, kept):
    content = whitening.to_bytes()
    path = tmp_path_factory.mktemp("short") / "w"
    path.write_bytes(content[: min(kept, len(content) - 1)])
    with pytest.raises(ModelError):
        load_whitening(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"dimension": 10**9}, "axes of 16"),
        ({"dimension": -1}, "axes of 16"),
        ({"dimension": 5}, "bytes of numbers"),
        ({"dimension": 6.0}, "axes of 16"),
        ({"inner_dimension": 10**9}, "axes of"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_header_that_lies_is_refused_whatever_its_checksum(whitening, tmp_path, header, message):
    form, _, body = whitening.to_bytes().split(b"\n", 2)
    text, numbers = body.split(b"\n", 1)
    body = json.dumps(json.loads(text) | header).encode() + b"\n" + numbers
    path = tmp_path / "w"
    path.write_bytes(b"\n".join([form, hashlib.sha256(body).hexdigest().encode(), body]))
    with pytest.raises(ModelError, match=message):
        load_whitening(path)


def test_numbers_that_are_not_finite_are_refused(whitening, tmp_path):
    broken = Whitening(whitening.header, whitening.mean * np.float32("nan"), whitening.projection)
    save_whitening(tmp_path / "w", broken)
    with pytest.raises(ModelError, match="NaN or infinity"):
        load_whitening(tmp_path / "w")


def test_what_is_no_whitening_is_refused(tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        load_whitening(tmp_path / "missing")
    (tmp_path / "w").write_text("something else")
    with pytest.raises(ModelError, match="no whitening file"):
        load_whitening(tmp_path / "w")
    with pytest.raises(ModelError, match="cannot be written"):
        save_whitening(tmp_path / "no folder" / "w", fit_whitening(one_sided(), SPEC))
