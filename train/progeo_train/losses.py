"""The losses of both stages of ProGEO (arXiv 2406.01906), on tensors alone.

All of them compute in float32 (or float64, when given that) whatever the mixed precision around them: exponentials
and small distances do not survive in half.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from progeo_edge.errors import InputError

# Constants of the published triplet loss: smallest squared distance, and what is added to a sum of weights.
MIN_SQUARED_DISTANCE = 1e-12
WEIGHT_SUM_OFFSET = 1e-6
# Smallest product of two norms that a cosine divides by.
MIN_NORM_PRODUCT = 1e-8


def supervised_contrastive(
    anchors: Tensor, others: Tensor, anchor_labels: Tensor, other_labels: Tensor, temperature: float
) -> Tensor:
    """Supervised contrastive loss between two sets of features (Khosla et al. 2020, eq. 2: the sum outside the log).

    Mean over anchors of minus the mean, over the others of the anchor's class, of the log-softmax over all others of
    anchor . other / temperature. As published, the features enter as they are, without being normalised. Stage 1
    adds it for images as anchors among texts and for texts as anchors among images.

    Args:
        anchors: (B, D).
        others: (M, D).
        anchor_labels: (B,) int64 classes.
        other_labels: (M,) int64 classes.
        temperature: Positive.

    Returns:
        Scalar.

    Raises:
        InputError: An anchor has no other of its class.
    """
    with _full_precision(anchors):
        log_probability = functional.log_softmax(_wide(anchors) @ _wide(others).T / temperature, dim=1)
    positive = anchor_labels[:, None] == other_labels[None, :]
    num_positives = positive.sum(dim=1)
    if bool((num_positives == 0).any()):
        lonely = anchor_labels[num_positives == 0][0].item()
        raise InputError(f"class {lonely} has an anchor but no positive; give every anchor another of its class")
    # Masked, not multiplied: a log-probability of minus infinity times zero would be NaN.
    mean_positive = log_probability.masked_fill(~positive, 0.0).sum(dim=1) / num_positives
    return -mean_positive.mean()


def cosface_logits(descriptors: Tensor, weight: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    """Logits of the large margin cosine loss: s (cos - m) for the true class, s cos for others (Wang et al. 2018).

    Args:
        descriptors: (B, D), of any norm.
        weight: (C, D), one direction per class, of any norm.
        labels: (B,) int64, the true class of each descriptor.
        scale: s.
        margin: m, taken from the cosine of the true class.

    Returns:
        (B, C) float32 (float64 for float64 input), for a plain cross-entropy.
    """
    with _full_precision(descriptors):
        descriptors, weight = _wide(descriptors), _wide(weight)
        norms = torch.linalg.vector_norm(descriptors, dim=1)[:, None] * torch.linalg.vector_norm(weight, dim=1)
        cosine = descriptors @ weight.T / norms.clamp(min=MIN_NORM_PRODUCT)
        margins = torch.zeros_like(cosine).scatter_(1, labels[:, None], margin)
        logits: Tensor = scale * (cosine - margins)
        return logits


class CosFace(nn.Module):
    """Classifier over the classes of one group (Wang et al. 2018); see `cosface_logits`.

    Args:
        dim: D, length of a descriptor.
        num_classes: C.
        scale: s.
        margin: m.

    Attributes:
        weight: (C, D), Xavier uniform at the start.
    """

    def __init__(self, dim: int, num_classes: int, scale: float, margin: float) -> None:
        super().__init__()
        self.scale = scale
        self.margin = margin
        self.weight = nn.Parameter(torch.empty(num_classes, dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, descriptors: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, C) of descriptors (B, D) whose true classes are labels (B,)."""
        return cosface_logits(descriptors, self.weight, labels, self.scale, self.margin)

    def extra_repr(self) -> str:
        """Sizes and constants, for printing."""
        num_classes, dim = self.weight.shape
        return f"dim={dim}, num_classes={num_classes}, scale={self.scale}, margin={self.margin}"


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy against (1 - smoothing) onehot + smoothing / K (Szegedy et al. 2016, section 7), mean over rows.

    Args:
        logits: (B, K).
        labels: (B,) int64.
        smoothing: In [0, 1).

    Returns:
        Scalar.
    """
    return functional.cross_entropy(_wide(logits), labels, label_smoothing=smoothing)


def soft_triplet(descriptors: Tensor, labels: Tensor) -> Tensor:
    """Triplet loss with distance-weighted mining and a soft margin, as ProGEO publishes it.

    For each anchor, with Euclidean distances d to every descriptor of the batch (the anchor itself is one of its
    positives, at 1e-6):

    - dp is the mean of d over positives with weights exp(d - max d), so that the farthest count most;
    - dn is the mean of d over negatives with weights exp(-d), so that the nearest count most
      (Ristani and Tomasi 2018, section 3.1);
    - both divide by the sum of weights plus 1e-6. Negatives farther than about 14 all weigh less than that offset, so
      dn goes to 0 for descriptors that are not normalised; an anchor without negatives has dn = 0;
    - the loss is log(1 + exp(dp - dn)) (Hermans et al. 2017, section 2), mean over anchors.

    Args:
        descriptors: (B, D).
        labels: (B,) int64 classes.

    Returns:
        Scalar, finite where the published computation overflows and changes to another loss; so are its gradients,
        also where descriptors are equal.
    """
    with _full_precision(descriptors):
        distance = _pairwise_distance(_wide(descriptors))
        same = labels[:, None] == labels[None, :]
        farthest = distance.masked_fill(~same, 0.0).max(dim=1, keepdim=True).values
        positive = _weighted_mean(distance, torch.exp((distance - farthest).masked_fill(~same, -torch.inf)))
        negative = _weighted_mean(distance, torch.exp((-distance).masked_fill(same, -torch.inf)))
        return functional.softplus(positive - negative).mean()


def _pairwise_distance(points: Tensor) -> Tensor:
    """(B, B) Euclidean distances, at least 1e-6."""
    square_norm = points.square().sum(dim=1)
    square = square_norm[:, None] + square_norm[None, :] - 2 * points @ points.T
    # A point's distance from itself is rounding noise in this form; it is zero.
    square = square.masked_fill(torch.eye(len(points), dtype=torch.bool, device=points.device), 0.0)
    # Clamped before the root, whose gradient at zero is infinite.
    return square.clamp(min=MIN_SQUARED_DISTANCE).sqrt()


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum(dim=1) / (weights.sum(dim=1) + WEIGHT_SUM_OFFSET)


def _full_precision(like: Tensor) -> torch.autocast:
    return torch.autocast(like.device.type, enabled=False)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
