"""The module that is exported: pixels in, unit descriptors out, written so that graphs stay short and exact."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from progeo_edge.bundle import Preprocess
from progeo_edge.errors import ConfigError
from progeo_export.fused_resize import FusedResize
from progeo_train.models.heads import MapHead
from progeo_train.models.place_encoder import EncoderSpec, PlaceEncoder

InputKind = Literal["uint8", "float"]

# Of F.normalize, which a zero vector survives.
_MIN_NORM = 1e-12


class DescriptorGraph(nn.Module):
    """An encoder as a bundle holds it: preprocessing inside, L2 norm at the end.

    Its parts name the nodes of the exported graph: "prologue", "trunk" and "head".

    Args:
        encoder: Is not changed, and shares its weights with this module unless its branches are merged for speed.
        input_kind: "uint8" takes (N, H, W, 3) BGR pixels; "float" takes (N, 3, H, W) RGB float32, pixels / 255. The
            mean and std are applied inside in both.
        fuse_resize_px: Height and width of a camera's frames: the graph takes these, and resizes them as the CPU does
            (`progeo_edge.preprocess`, "area_or_cubic", to the rounding). None takes frames that are resized already.

    Raises:
        ConfigError: a fused resize of float input.
    """

    def __init__(
        self,
        encoder: PlaceEncoder,
        *,
        input_kind: InputKind = "uint8",
        fuse_resize_px: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if fuse_resize_px is not None and input_kind != "uint8":
            raise ConfigError("a fused resize takes camera frames as uint8; leave out the float input or the resize")
        # In a tuple, so that its weights are not registered twice.
        self._encoder = (encoder,)
        self.input_kind: InputKind = input_kind
        self.input_size_px = fuse_resize_px or encoder.spec.image_size_px
        self.prologue = _prologue(encoder.spec, input_kind, fuse_resize_px)
        self.trunk = _deployed(encoder)
        self.head = ExportMapHead(encoder.head) if isinstance(encoder.head, MapHead) else ExportVectorHead()

    @property
    def encoder(self) -> PlaceEncoder:
        """The encoder that this graph must agree with."""
        return self._encoder[0]

    @property
    def preprocess(self) -> Preprocess:
        """What is left for the runtime to do before the graph."""
        height_px, width_px = self.input_size_px
        pixels = self.input_kind == "uint8"
        return Preprocess(
            width_px=width_px,
            height_px=height_px,
            color="bgr" if pixels else "rgb",
            layout="nhwc" if pixels else "nchw",
            dtype="uint8" if pixels else "float32",
            mean=None,
            std=None,
            resize="area_or_cubic",
            aspect="squash",
        )

    def example(self, batch: int = 2) -> Tensor:
        """Random input of the right shape and type, the same each time."""
        generator = torch.Generator().manual_seed(0)
        shape = (batch, *self.input_size_px, 3)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return pixels if self.input_kind == "uint8" else pixels.permute(0, 3, 1, 2).contiguous() / 255.0

    def forward(self, image: Tensor) -> Tensor:
        """Describe images.

        Args:
            image: As `input_kind` says.

        Returns:
            (N, D) float32, rows of unit length.
        """
        descriptors: Tensor = self.head(self.trunk(self.prologue(image)))
        return descriptors


class UnitNorm(nn.Module):
    """`F.normalize` over dimension 1 without the shape computations that it is exported with."""

    def forward(self, values: Tensor) -> Tensor:
        """(N, C) or (N, C, H, W) to unit vectors over C; a zero vector stays zero."""
        return values / (values * values).sum(dim=1, keepdim=True).sqrt().clamp(min=_MIN_NORM)


class ExportMapHead(nn.Module):
    """`MapHead` with GeM's exponent as a constant.

    Args:
        head: Its linear layer is shared.
    """

    def __init__(self, head: MapHead) -> None:
        super().__init__()
        self.p = head.gem.p.detach().item()
        self.eps = head.gem.eps
        self.channel_norm = UnitNorm()
        self.linear = head.linear
        self.norm = UnitNorm()

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to (N, D)."""
        positive = self.channel_norm(features).clamp(min=self.eps)
        pooled = positive.pow(self.p).mean(dim=(-2, -1)).pow(1.0 / self.p)
        descriptors: Tensor = self.norm(self.linear(pooled))
        return descriptors


class ExportVectorHead(nn.Module):
    """The L2 norm, also for encoders whose published code leaves it out."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = UnitNorm()

    def forward(self, vectors: Tensor) -> Tensor:
        """(N, D) to (N, D)."""
        descriptors: Tensor = self.norm(vectors)
        return descriptors


class PixelPrologue(nn.Module):
    """(N, H, W, 3) BGR uint8 to (N, 3, H, W) RGB, normalised.

    Args:
        spec: Its mean and std.
        resize: From the camera's size to the encoder's, on (N, 3, h, w) values; None leaves the size.
    """

    order: Tensor

    def __init__(self, spec: EncoderSpec, resize: nn.Module | None = None) -> None:
        super().__init__()
        self.resize = nn.Identity() if resize is None else resize
        self.normalise = Normalise(spec, 255.0)
        self.register_buffer("order", torch.tensor([2, 1, 0]))

    def forward(self, pixels: Tensor) -> Tensor:
        """Prepare pixels for the trunk."""
        planes = self.resize(pixels.to(torch.float32).permute(0, 3, 1, 2))
        normalised: Tensor = self.normalise(planes.index_select(1, self.order))
        return normalised


class Normalise(nn.Module):
    """(x / full_scale - mean) / std, as one product and one sum.

    Args:
        spec: Its mean and std.
        full_scale: Value of white.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, spec: EncoderSpec, full_scale: float) -> None:
        super().__init__()
        mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
        self.register_buffer("scale", (1.0 / (full_scale * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, planes: Tensor) -> Tensor:
        """(N, 3, H, W) RGB to the same."""
        return planes * self.scale + self.shift


def _deployed(encoder: PlaceEncoder) -> nn.Module:
    """The trunk; of timm's towers (MobileCLIP) a copy in which the parallel branches of training are merged."""
    if encoder.spec.kind != "clip_other":
        return encoder.trunk
    # Needed for these towers alone.
    from timm.utils.model import reparameterize_model

    merged: nn.Module = reparameterize_model(encoder.trunk)
    return merged


def _prologue(spec: EncoderSpec, input_kind: InputKind, fuse_resize_px: tuple[int, int] | None) -> nn.Module:
    if input_kind == "float":
        return Normalise(spec, 1.0)
    return PixelPrologue(spec, FusedResize(fuse_resize_px, spec.image_size_px) if fuse_resize_px else None)
