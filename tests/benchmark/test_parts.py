from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from progeo_edge.benchmark.parts import encoder_parts, geometry_parts, measure_parts, num_samples
from progeo_edge.benchmark.series import SeriesBook
from progeo_edge.config import load_config
from progeo_edge.encoders import load_encoder
from progeo_edge.encoders.tensorrt import TensorRTEncoder
from progeo_edge.errors import InputError
from progeo_edge.types import Frame, LocalFeatures, Verification
from tests.encoders.tensorrt_bundle import write_golden_bundle
from tests.encoders.trt_fixtures import frames as images
from tests.encoders.trt_fixtures import make_machine
from tests.tiny_encoder import DIMENSION, HEIGHT_PX, WIDTH_PX, write_tiny_foreign

BIG = np.random.default_rng(0).integers(0, 256, (2, 120, 160, 3), dtype=np.uint8)


def test_parts_of_the_built_in_encoder():
    encoder = load_encoder("vlad")
    with ExitStack() as cleanup:
        parts, missing = encoder_parts(encoder, "vlad", list(BIG), cleanup)
        assert list(parts) == ["resize", "inference"] and set(missing) == {"parts.host_to_device"}
        (found,) = np.asarray(parts["inference"](1))
        np.testing.assert_allclose(found, encoder.encode([BIG[1]])[0], atol=1e-5)


def test_parts_of_a_bundle_on_the_cpu(tmp_path: Path):
    bundle = write_golden_bundle(tmp_path / "bundle")
    encoder = load_encoder(bundle, backend="onnx")
    with ExitStack() as cleanup:
        parts, missing = encoder_parts(encoder, str(bundle), list(BIG), cleanup)
        assert list(parts) == ["resize", "inference"]
        assert missing == {"parts.host_to_device": "the encoder runs on the CPU"}
        assert np.asarray(parts["resize"](0)).shape == (1, HEIGHT_PX, WIDTH_PX, 3)
        assert np.asarray(parts["inference"](1)).shape == (1, DIMENSION)
    encoder.close()


def test_parts_of_a_foreign_model(tmp_path: Path):
    model = write_tiny_foreign(tmp_path / "foreign")
    encoder = load_encoder(model)
    with ExitStack() as cleanup:
        parts, _ = encoder_parts(encoder, str(model), list(BIG), cleanup)
        assert np.asarray(parts["resize"](0)).shape == (1, 3, HEIGHT_PX, WIDTH_PX)
    encoder.close()


def test_the_copy_to_the_gpu_is_measured_and_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    machine = make_machine(monkeypatch, tmp_path / "user-cache")
    bundle = write_golden_bundle(tmp_path / "bundle")
    with TensorRTEncoder(bundle, precision="fp32") as encoder, ExitStack() as cleanup:
        parts, missing = encoder_parts(encoder, str(bundle), images(2), cleanup)
        assert list(parts) == ["resize", "host_to_device", "inference"] and missing == {}
        before = machine.cuda.alive()
        parts["host_to_device"](0)
        assert machine.cuda.alive() == before, "measuring allocates nothing"
        assert np.asarray(parts["inference"](0)).shape == (1, DIMENSION)
    machine.assert_all_freed()


def test_every_part_runs_on_every_sample_in_turn():
    calls: list[tuple[str, int]] = []
    parts = {name: (lambda i, name=name: calls.append((name, i))) for name in "ab"}
    book = SeriesBook()
    measure_parts(parts, 3, book, rounds=2, warmup=1)
    once = [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert calls == [("a", 0), ("b", 0), *once, *once]
    series = book.as_json()
    assert list(series) == ["parts.a", "parts.b"] and series["parts.a"]["summary"]["count"] == 6
    assert len(series["parts.b"]["rounds"]) == 2


def test_geometry_of_consecutive_frames():
    sequence = [Frame(i, image, T_odom_base=None) for i, image in enumerate(_shifted(6))]
    parts = geometry_parts(sequence, None, load_config())
    features, right, wrong = parts["features"](0), parts["verify"](2), parts["reject"](2)
    assert isinstance(features, LocalFeatures) and len(features) > 100
    assert isinstance(right, Verification) and isinstance(wrong, Verification)
    assert right.num_inliers > 50 > wrong.num_inliers


def _shifted(count: int) -> list[np.ndarray]:
    """Three views of one texture, moved a little, and as many of another one."""
    rng = np.random.default_rng(0)
    textures = [np.kron(rng.integers(0, 256, (40, 60)), np.ones((8, 8))).astype(np.uint8) for _ in range(2)]
    half = count // 2
    return [np.ascontiguousarray(texture[:240, 4 * i : 4 * i + 320]) for texture in textures for i in range(half)]


def test_too_few_samples_are_refused():
    with pytest.raises(InputError, match="3 frames to sample; expected at least 4"):
        geometry_parts([Frame(i, BIG[0]) for i in range(3)], None, load_config())


@pytest.mark.parametrize(("shape", "expected"), [((480, 640, 3), 24), ((2160, 3840, 3), 10), ((9000, 9000, 3), 4)])
def test_large_frames_are_fewer_samples(shape: tuple[int, ...], expected: int):
    assert num_samples(Frame(0, np.zeros(shape, np.uint8))) == expected
