"""Each loss against plain loops in numpy float64, its gradients against finite differences, and its properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from progeo_edge.errors import InputError
from progeo_train.losses import CosFace, cosface_logits, smoothed_cross_entropy, soft_triplet, supervised_contrastive

SEEDS = range(5)


def features(seed, *shape, scale=1.0):
    return scale * np.random.default_rng(seed).standard_normal(shape)


def labels_of(seed, count, classes=3):
    """Every class at least once."""
    return np.random.default_rng(seed).permutation(np.arange(count) % classes)


def tensor(array, grad=False):
    return torch.tensor(np.asarray(array), requires_grad=grad)


def contrastive_by_hand(anchors, others, anchor_labels, other_labels, temperature):
    losses = []
    for anchor, label in zip(anchors, anchor_labels, strict=True):
        logits = [float(np.dot(anchor, other)) / temperature for other in others]
        log_sum = math.log(sum(math.exp(value) for value in logits))
        positives = [value - log_sum for value, other in zip(logits, other_labels, strict=True) if other == label]
        losses.append(-sum(positives) / len(positives))
    return sum(losses) / len(losses)


def cosface_by_hand(descriptors, weight, labels, scale, margin):
    logits = np.empty((len(descriptors), len(weight)))
    for row, descriptor in enumerate(descriptors):
        for column, direction in enumerate(weight):
            cosine = np.dot(descriptor, direction) / (math.sqrt(sum(descriptor**2)) * math.sqrt(sum(direction**2)))
            logits[row, column] = scale * (cosine - (margin if labels[row] == column else 0))
    return logits


def smoothed_by_hand(logits, labels, smoothing):
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        for k, value in enumerate(row):
            target = (1 - smoothing) * (k == label) + smoothing / len(row)
            total -= target * (value - log_sum)
    return total / len(labels)


def triplet_by_hand(descriptors, labels):
    losses = []
    for i, anchor in enumerate(descriptors):
        distances = [math.sqrt(max(sum((anchor - other) ** 2), 1e-12)) for other in descriptors]
        positives = [d for d, label in zip(distances, labels, strict=True) if label == labels[i]]
        negatives = [d for d, label in zip(distances, labels, strict=True) if label != labels[i]]
        far = [math.exp(d - max(positives)) for d in positives]
        near = [math.exp(-d) for d in negatives]
        dp = sum(w * d for w, d in zip(far, positives, strict=True)) / (sum(far) + 1e-6)
        dn = sum(w * d for w, d in zip(near, negatives, strict=True)) / (sum(near) + 1e-6)
        losses.append(math.log(1 + math.exp(dp - dn)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_contrastive_is_the_formula(seed, temperature):
    anchors, others = features(seed, 7, 5), features(seed + 100, 9, 5)
    anchor_labels, other_labels = labels_of(seed, 7), labels_of(seed + 1, 9)
    found = supervised_contrastive(
        tensor(anchors), tensor(others), tensor(anchor_labels), tensor(other_labels), temperature
    )
    expected = contrastive_by_hand(anchors, others, anchor_labels, other_labels, temperature)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_contrastive_does_not_normalise():
    anchors, labels = features(0, 6, 4), labels_of(0, 6)
    once = supervised_contrastive(tensor(anchors), tensor(anchors), tensor(labels), tensor(labels), 1.0)
    twice = supervised_contrastive(tensor(2 * anchors), tensor(anchors), tensor(labels), tensor(labels), 1.0)
    assert abs(once.item() - twice.item()) > 1e-3


def test_contrastive_gradient():
    anchor_labels, other_labels = tensor(labels_of(0, 4)), tensor(labels_of(1, 5))
    assert torch.autograd.gradcheck(
        lambda a, o: supervised_contrastive(a, o, anchor_labels, other_labels, 0.7),
        (tensor(features(0, 4, 3), grad=True), tensor(features(1, 5, 3), grad=True)),
    )


def test_contrastive_is_finite_for_clip_sized_logits():
    anchors, labels = torch.tensor(features(0, 6, 4, scale=100.0), dtype=torch.float32), tensor(labels_of(0, 6))
    anchors.requires_grad_()
    loss = supervised_contrastive(anchors, anchors, labels, labels, 1e-3)
    loss.backward()
    assert loss.isfinite()
    assert anchors.grad is not None and anchors.grad.isfinite().all()


def test_contrastive_needs_a_positive_per_anchor():
    with pytest.raises(InputError, match="class 7 has an anchor but no positive"):
        supervised_contrastive(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([1, 7]), torch.tensor([1, 1]), 1.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_cosface_is_the_formula(seed):
    descriptors, weight, labels = features(seed, 6, 5), features(seed + 9, 4, 5), labels_of(seed, 6, classes=4)
    found = cosface_logits(tensor(descriptors), tensor(weight), tensor(labels), 30.0, 0.4)
    np.testing.assert_allclose(found, cosface_by_hand(descriptors, weight, labels, 30.0, 0.4), rtol=1e-11, atol=1e-11)


def test_cosface_module_holds_one_direction_per_class():
    torch.manual_seed(0)
    classifier = CosFace(dim=64, num_classes=300, scale=20.0, margin=0.2)
    bound = math.sqrt(6 / (64 + 300))
    assert classifier.weight.shape == (300, 64)
    assert bound * 0.99 < classifier.weight.abs().max() <= bound
    assert classifier.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    descriptors, labels = torch.tensor(features(1, 3, 64), dtype=torch.float32), torch.tensor([0, 299, 5])
    expected = cosface_by_hand(descriptors.numpy(), classifier.weight.detach().numpy(), labels.numpy(), 20.0, 0.2)
    np.testing.assert_allclose(classifier(descriptors, labels).detach(), expected, atol=1e-4)
    assert "num_classes=300" in repr(classifier)


def test_cosface_gradient():
    labels = tensor(labels_of(0, 4))
    assert torch.autograd.gradcheck(
        lambda d, w: cosface_logits(d, w, labels, 3.0, 0.4),
        (tensor(features(0, 4, 5), grad=True), tensor(features(1, 3, 5), grad=True)),
    )


def test_cosface_ignores_norms_and_is_bounded():
    descriptors, weight, labels = features(0, 5, 4), features(1, 3, 4), labels_of(0, 5)
    found = cosface_logits(tensor(descriptors), tensor(weight), tensor(labels), 30.0, 0.4)
    scaled = cosface_logits(tensor(7 * descriptors), tensor(0.2 * weight), tensor(labels), 30.0, 0.4)
    torch.testing.assert_close(found, scaled)
    assert found.min() >= -30 * 1.4 and found.max() <= 30


def test_cosface_is_float32_under_autocast():
    descriptors = torch.tensor(features(0, 5, 64), dtype=torch.float32)
    weight, labels = torch.tensor(features(1, 3, 64), dtype=torch.float32), tensor(labels_of(0, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cosface_logits(descriptors, weight, labels, 30.0, 0.4)
        half = cosface_logits(descriptors.bfloat16(), weight, labels, 30.0, 0.4)
    assert found.dtype == half.dtype == torch.float32
    torch.testing.assert_close(found, cosface_logits(descriptors, weight, labels, 30.0, 0.4), rtol=0, atol=0)


def test_cosface_of_a_zero_descriptor_is_finite():
    descriptors = torch.zeros(1, 4, requires_grad=True)
    logits = cosface_logits(descriptors, torch.ones(2, 4), torch.tensor([1]), 30.0, 0.4)
    logits.sum().backward()
    torch.testing.assert_close(logits.detach(), torch.tensor([[0.0, -12.0]]))
    assert descriptors.grad is not None and descriptors.grad.isfinite().all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_cross_entropy_is_the_formula(seed, smoothing):
    logits, labels = features(seed, 6, 5, scale=3.0), labels_of(seed, 6, classes=5)
    found = smoothed_cross_entropy(tensor(logits), tensor(labels), smoothing)
    assert found.item() == pytest.approx(smoothed_by_hand(logits, labels, smoothing), rel=1e-12)


def test_smoothed_cross_entropy_gradient():
    labels = tensor(labels_of(0, 4))
    assert torch.autograd.gradcheck(
        lambda x: smoothed_cross_entropy(x, labels, 0.1), (tensor(features(0, 4, 3), grad=True),)
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_triplet_is_the_formula(seed, scale):
    descriptors, labels = features(seed, 8, 5, scale=scale), labels_of(seed, 8)
    found = soft_triplet(tensor(descriptors), tensor(labels))
    assert found.item() == pytest.approx(triplet_by_hand(descriptors, labels), rel=1e-9)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]], ids=["no negatives", "no positives"])
def test_triplet_of_a_lonely_batch_is_the_formula(labels):
    descriptors = features(0, 3, 4)
    found = soft_triplet(tensor(descriptors), torch.tensor(labels))
    assert found.item() == pytest.approx(triplet_by_hand(descriptors, labels), rel=1e-9)


def test_triplet_gradient():
    labels = tensor(labels_of(0, 6))
    assert torch.autograd.gradcheck(lambda x: soft_triplet(x, labels), (tensor(features(0, 6, 3), grad=True),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_triplet_gradient_of_equal_descriptors_is_finite(dtype):
    one = torch.tensor(features(0, 1, 16), dtype=dtype)
    descriptors = torch.nn.functional.normalize(one).repeat(4, 1).requires_grad_()
    loss = soft_triplet(descriptors, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-3)
    assert descriptors.grad is not None and descriptors.grad.isfinite().all()


def test_triplet_does_not_overflow():
    descriptors = torch.tensor([[0.0], [1000.0], [0.0], [1000.0]], requires_grad=True)
    loss = soft_triplet(descriptors, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(1000.0, rel=1e-5)
    assert descriptors.grad is not None and descriptors.grad.isfinite().all()


def test_triplet_falls_as_places_part():
    near = soft_triplet(torch.tensor([[0.0], [0.1], [0.3], [0.4]]), torch.tensor([0, 0, 1, 1]))
    far = soft_triplet(torch.tensor([[0.0], [0.1], [3.0], [3.1]]), torch.tensor([0, 0, 1, 1]))
    assert 0 < far < near


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_losses_do_not_depend_on_the_order_of_rows_or_the_names_of_classes(seed):
    random = np.random.default_rng(seed)
    rows, names = random.permutation(8), random.permutation(4)
    descriptors, weight, labels = features(seed, 8, 5), features(seed + 1, 4, 5), labels_of(seed, 8, classes=4)

    def losses(descriptors, labels, weight):
        d, y, w = tensor(descriptors), tensor(labels), tensor(weight)
        logits = cosface_logits(d, w, y, 30.0, 0.4)
        return torch.stack(
            [
                soft_triplet(d, y),
                supervised_contrastive(d, w, y, torch.arange(4), 1.0),
                smoothed_cross_entropy(logits, y, 0.1),
            ]
        )

    renamed = np.empty_like(weight)
    renamed[names] = weight
    torch.testing.assert_close(
        losses(descriptors, labels, weight), losses(descriptors[rows], names[labels][rows], renamed)
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), smoothing=st.floats(0, 0.9))
def test_losses_are_bounded_from_below(seed, smoothing):
    descriptors, labels = tensor(features(seed, 6, 4)), tensor(labels_of(seed, 6))
    assert soft_triplet(descriptors, labels) > 0
    # Two positives share the softmax, so none exceeds one half on average.
    assert supervised_contrastive(descriptors, descriptors, labels, labels, 1.0) >= math.log(2)
    target = np.full(4, smoothing / 4) + (1 - smoothing) * np.eye(4)[0]
    entropy = -sum(t * math.log(t) for t in target if t > 0)
    assert smoothed_cross_entropy(descriptors, labels, smoothing) >= entropy - 1e-12
