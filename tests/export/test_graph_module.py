"""The module that is exported computes what the runtime's preprocessing and the encoder compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from progeo_edge.errors import ConfigError
from progeo_edge.preprocess import to_model_input
from progeo_export.checkpoint_input import open_model
from progeo_export.fp32_parity import reference_descriptors
from progeo_export.graph_module import DescriptorGraph, UnitNorm
from tests.train.tiny_models import SIZE_PX, tiny_encoder

torch.set_num_threads(1)


def pictures(count=5, size=(SIZE_PX, SIZE_PX), seed=0):
    """Blotches of different coarseness, uint8 BGR."""
    generator = np.random.default_rng(seed)
    coarse = [generator.integers(0, 256, (2 + k % 7, 3 + k % 5, 3), dtype=np.uint8) for k in range(count)]
    rows = [np.repeat(c, -(-size[0] // len(c)), axis=0)[: size[0]] for c in coarse]
    return [np.ascontiguousarray(np.repeat(c, -(-size[1] // c.shape[1]), axis=1)[:, : size[1]]) for c in rows]


def described(graph, images):
    with torch.inference_mode():
        return graph(torch.from_numpy(to_model_input(images, graph.preprocess))).numpy()


@pytest.fixture(scope="module")
def encoders():
    return {
        "resnet": tiny_encoder("resnet"),
        "vit": tiny_encoder("vit"),
        "mobileclip": open_model("MobileCLIP2-S0", (64, 64)).encoder,
    }


@pytest.mark.parametrize("kind", ["resnet", "vit", "mobileclip"])
@pytest.mark.parametrize("input_kind", ["uint8", "float"])
def test_graph_agrees_with_preprocessing_and_encoder(encoders, kind, input_kind):
    images = [*pictures(), pictures(1, (90, 130))[0]]
    expected = reference_descriptors(encoders[kind], images)
    found = described(DescriptorGraph(encoders[kind], input_kind=input_kind).eval(), images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # The comparison means something only where images differ.
    assert np.abs(expected - expected[::-1]).max() > 0.01


@pytest.mark.parametrize("change", [{"mean": (0.5, 0.4, 0.3)}, {"std": (0.3, 0.2, 0.1)}])
def test_other_statistics_give_other_descriptors(change):
    graph = DescriptorGraph(tiny_encoder("resnet")).eval()
    other = DescriptorGraph(tiny_encoder("resnet", **change)).eval()
    other.trunk = graph.trunk
    assert np.abs(described(graph, pictures()) - described(other, pictures())).max() > 1e-3


def test_channels_are_swapped():
    graph = DescriptorGraph(tiny_encoder("resnet")).eval()
    swapped = [image[..., ::-1].copy() for image in pictures()]
    assert np.abs(described(graph, pictures()) - described(graph, swapped)).max() > 1e-3


def test_learned_exponent_is_a_constant_of_the_graph():
    encoder = tiny_encoder("resnet")
    with torch.no_grad():
        encoder.get_parameter("head.gem.p").fill_(2.37)
    graph = DescriptorGraph(encoder).eval()
    assert graph.head.p == pytest.approx(2.37)
    assert not [name for name, _ in graph.named_parameters() if "gem" in name or name.endswith(".p")]
    np.testing.assert_allclose(described(graph, pictures()), reference_descriptors(encoder, pictures()), atol=1e-5)


def test_vit_without_the_published_norm_still_ends_in_unit_norm():
    encoder = tiny_encoder("vit", normalise=False)
    with torch.inference_mode():
        raw = encoder(torch.from_numpy(to_model_input(pictures(), encoder.spec.preprocess()))).numpy()
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).min() > 0.01
    found = described(DescriptorGraph(encoder).eval(), pictures())
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-5)


def test_unit_norm_leaves_zero_at_zero():
    values = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-4, 0.0]])
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]])
    torch.testing.assert_close(UnitNorm()(values), expected)


@pytest.mark.parametrize("frame_px", [(270, 480), (48, 200), (64, 64)])
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_fused_resize_gives_the_cpus_descriptors(kind, frame_px):
    encoder = tiny_encoder(kind)
    graph = DescriptorGraph(encoder, fuse_resize_px=frame_px).eval()
    images = pictures(4, frame_px)
    assert to_model_input(images, graph.preprocess).shape == (4, *frame_px, 3)
    np.testing.assert_allclose(described(graph, images), reference_descriptors(encoder, images), atol=2e-4)


def test_fused_resize_needs_pixels():
    with pytest.raises(ConfigError, match="uint8"):
        DescriptorGraph(tiny_encoder("resnet"), input_kind="float", fuse_resize_px=(48, 64))


def test_merging_branches_leaves_the_encoder_alone(encoders):
    encoder = encoders["mobileclip"]
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    graph = DescriptorGraph(encoder)
    assert len(list(graph.trunk.modules())) < len(list(encoder.trunk.modules()))
    after = encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
