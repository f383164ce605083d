"""From a feature map, or a class token, to a unit descriptor."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class L2Norm(nn.Module):
    """Scales vectors to unit length; a zero vector stays zero."""

    def forward(self, values: Tensor) -> Tensor:
        """Normalise over the channels.

        Args:
            values: (N, C) or (N, C, H, W).
        """
        return F.normalize(values, dim=1)


class GeM(nn.Module):
    """Generalised mean over the positions of a map (Radenovic et al., arXiv 1711.02512, equation 3).

    Args:
        p: Exponent at the start; learned. 1 is the mean, infinity the maximum.
        eps: Smaller values are raised to it, so that the power has a gradient.

    Attributes:
        p: (1,) parameter.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), float(p)))
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        """Pool (N, C, H, W) to (N, C)."""
        return features.clamp(min=self.eps).pow(self.p).mean(dim=(-2, -1)).pow(1.0 / self.p)


class MapHead(nn.Module):
    """Feature map to descriptor: L2 norm over channels, GeM, linear layer, L2 norm (ProGEO and CosPlace, section 3.2).

    Computed in the precision of its weights also under autocast: powers of small numbers do not survive half precision.

    Args:
        channels: Channels of the map.
        descriptor_dim: Length of the descriptor.
        gem_p: See `GeM`.
        gem_eps: See `GeM`.
    """

    def __init__(self, channels: int, descriptor_dim: int, gem_p: float, gem_eps: float) -> None:
        super().__init__()
        self.norm = L2Norm()
        self.gem = GeM(gem_p, gem_eps)
        self.linear = nn.Linear(channels, descriptor_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Pool (N, channels, H, W) to (N, descriptor_dim), rows of unit length."""
        with torch.autocast(device_type=features.device.type, enabled=False):
            pooled = self.gem(self.norm(features.to(self.linear.weight.dtype)))
            descriptors: Tensor = self.norm(self.linear(pooled))
        return descriptors


class VectorHead(nn.Module):
    """The vector of a tower that projects by itself, as a descriptor, in single precision at least.

    Args:
        normalise: End in the L2 norm. The published ViT code of ProGEO leaves it out.
    """

    def __init__(self, normalise: bool) -> None:
        super().__init__()
        self.norm = L2Norm() if normalise else nn.Identity()

    def forward(self, vectors: Tensor) -> Tensor:
        """(N, D) of any floating type to (N, D)."""
        with torch.autocast(device_type=vectors.device.type, enabled=False):
            exact = vectors.float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors
            descriptors: Tensor = self.norm(exact)
        return descriptors
