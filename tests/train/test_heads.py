from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from progeo_train.models.heads import GeM, L2Norm, MapHead, VectorHead


def _map(seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(3, 5, 4, 6))


@pytest.mark.parametrize("p", [1.0, 2.5, 3.0])
def test_gem_is_the_power_mean_of_clamped_values(p: float) -> None:
    values = _map()
    pooled = GeM(p, eps=1e-3).double()(torch.from_numpy(values))
    expected = np.mean(np.maximum(values, 1e-3) ** p, axis=(2, 3)) ** (1 / p)
    np.testing.assert_allclose(pooled.detach().numpy(), expected, rtol=1e-12)


def test_gem_learns_its_exponent() -> None:
    values = torch.from_numpy(np.abs(_map()) + 0.1)
    gem = GeM(3.0).double()
    assert gem.p.shape == (1,)
    gem(values).sum().backward()
    step = 1e-6
    with torch.no_grad():
        gem.p.add_(step)
        above = gem(values).sum()
        gem.p.sub_(2 * step)
        below = gem(values).sum()
    assert gem.p.grad is not None
    assert float(gem.p.grad) == pytest.approx(float(above - below) / (2 * step), rel=1e-6)


def test_gem_of_a_map_of_zeros_has_a_gradient() -> None:
    values = torch.zeros(1, 2, 3, 3, requires_grad=True)
    gem = GeM()
    gem(values).sum().backward()
    assert gem.p.grad is not None and bool(torch.isfinite(gem.p.grad).all())


def test_norm_keeps_zero_vectors() -> None:
    rows = L2Norm()(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(rows.numpy(), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


def test_map_head_follows_the_paper() -> None:
    values = _map()
    head = MapHead(5, 7, gem_p=3.0, gem_eps=1e-6).double()
    descriptors = head(torch.from_numpy(values)).detach().numpy()
    weight, bias = head.linear.weight.detach().numpy(), head.linear.bias.detach().numpy()
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    pooled = np.cbrt(np.mean(np.maximum(unit, 1e-6) ** 3, axis=(2, 3)))
    projected = pooled @ weight.T + bias
    np.testing.assert_allclose(descriptors, projected / np.linalg.norm(projected, axis=1, keepdims=True), rtol=1e-10)


def test_map_head_ignores_autocast() -> None:
    head = MapHead(5, 7, gem_p=3.0, gem_eps=1e-6)
    values = torch.from_numpy(_map()).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = head(values)
    assert under.dtype == torch.float32
    torch.testing.assert_close(under, head(values.float()), rtol=0, atol=0)


def test_vector_head_normalises_in_single_precision_or_leaves_alone() -> None:
    vectors = torch.tensor([[3.0, 4.0]], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        unit = VectorHead(normalise=True)(vectors)
        raw = VectorHead(normalise=False)(vectors)
    assert unit.dtype == raw.dtype == torch.float32
    np.testing.assert_allclose(unit.numpy(), [[0.6, 0.8]], rtol=1e-6)
    assert raw.tolist() == [[3.0, 4.0]]
