from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from progeo_edge.benchmark.peers.process import PeerGoneError, PeerProcess
from progeo_edge.benchmark.versus.contenders import ENTRY_POINTS, TORCH_COMPILE, TORCH_EAGER
from progeo_edge.bundle import Preprocess
from progeo_edge.preprocess import to_model_input
from progeo_train.benchmark_peers import TorchPeer
from progeo_train.checkpoint_file import CheckpointRecord, model_tensors, write_checkpoint
from tests.train.tiny_models import SIZE_PX, tiny_encoder

HERE = Path(__file__)
SPEC = Preprocess(width_px=SIZE_PX, height_px=SIZE_PX, color="bgr", layout="nhwc", dtype="uint8", mean=None, std=None)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Frames that have the model's size already, so that only what comes after the resizing counts."""
    frames = np.random.default_rng(0).integers(0, 256, (3, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    return {
        "frames": {"64x64": str(tmp_path / "frames.npy")},
        "preprocess": SPEC.model_dump(mode="json"),
        "architecture": str(HERE.with_name("tiny_resnet.json")),
        "dimension": 24,
        "threads": 1,
    }


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_checkpoint_gives_the_descriptors_of_its_encoder(settings: dict[str, Any], tmp_path: Path):
    encoder = tiny_encoder()
    path = tmp_path / "tiny.safetensors"
    record = CheckpointRecord(kind="model", encoder=encoder.spec)
    write_checkpoint(path, record, model_tensors(encoder))
    database = np.eye(encoder.spec.descriptor_dim, dtype=np.float32)
    np.save(tmp_path / "database.npy", database)
    peer = TorchPeer({**settings, "checkpoint": str(path), "database": str(tmp_path / "database.npy")})
    assert peer.facts["weights"] == "tiny.safetensors" and peer.facts["random_weights"] is False
    frames = np.load(settings["frames"]["64x64"])
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(to_model_input(list(frames), encoder.spec.preprocess()))).numpy()
    for item in range(3):
        descriptor = peer.steps["descriptor"](item)
        np.testing.assert_allclose(descriptor, expected[item], atol=1e-5)
        np.testing.assert_allclose(peer.steps["encoder"](item), descriptor, atol=1e-6)
        np.testing.assert_array_equal(peer.steps["candidates"](item), np.argsort(-descriptor)[:20])
        assert peer.steps["prepare 64x64"](item).shape == (1, 3, SIZE_PX, SIZE_PX)


def test_without_a_checkpoint_the_architecture_gets_random_weights_and_the_bundles_dimension(settings: dict[str, Any]):
    peer = TorchPeer(settings)
    assert peer.facts["weights"] == "random" and peer.facts["random_weights"] is True
    descriptor = peer.steps["descriptor"](0)
    assert descriptor.shape == (24,) and np.linalg.norm(descriptor) == pytest.approx(1.0, abs=1e-5)
    assert "candidates" not in peer.steps, "there is no database"


def test_it_runs_in_a_process_of_its_own(settings: dict[str, Any]):
    peer = PeerProcess("progeo_train.benchmark_peers:TorchPeer", settings, threads=1)
    try:
        assert "torch" in peer.facts["runs"] and len(peer.times_ms("encoder", [0, 1])) == 2
    finally:
        peer.close()


def test_a_checkpoint_that_is_not_there_is_said(settings: dict[str, Any], tmp_path: Path):
    missing = {**settings, "checkpoint": str(tmp_path / "no.safetensors")}
    with pytest.raises(PeerGoneError, match=r"no\.safetensors"):
        PeerProcess("progeo_train.benchmark_peers:TorchPeer", missing, threads=1)


def test_the_package_offers_both():
    text = (HERE.parents[2] / "pyproject.toml").read_text()
    section = text.partition(f'entry-points."{ENTRY_POINTS}"]\n')[2].partition("\n\n")[0]
    offered = dict(line.split(" = ") for line in section.splitlines())
    assert offered == {
        TORCH_EAGER: '"progeo_train.benchmark_peers:TorchPeer"',
        TORCH_COMPILE: '"progeo_train.benchmark_peers:CompiledTorchPeer"',
    }
