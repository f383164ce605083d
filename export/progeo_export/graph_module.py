"""The module that is exported: pixels in, unit descriptors out, written so that graphs stay short and exact."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from progeo_edge.bundle import Preprocess
from progeo_edge.errors import ConfigError
from progeo_export.resize_matrices import cubic_matrix, shrink_matrix
from progeo_train.models.heads import MapHead
from progeo_train.models.place_encoder import EncoderSpec, PlaceEncoder

InputKind = Literal["uint8", "float"]
Matrix = NDArray[np.float32]

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


class FusedResize(nn.Module):
    """The CPU's "area_or_cubic" resize for one frame size: first shrink the axes that shrink, then grow the others.

    Rounds to whole pixels between both, so that a fixed camera's descriptors match a map made without it.

    Args:
        source_px: Height and width of the frames.
        target_px: Height and width wanted.
    """

    def __init__(self, source_px: tuple[int, int], target_px: tuple[int, int]) -> None:
        super().__init__()
        smaller_px = (min(source_px[0], target_px[0]), min(source_px[1], target_px[1]))
        shrink = AxisProducts(
            shrink_matrix(source_px[0], smaller_px[0]) if smaller_px[0] < source_px[0] else None,
            shrink_matrix(source_px[1], smaller_px[1]) if smaller_px[1] < source_px[1] else None,
        )
        grow = AxisProducts(
            cubic_matrix(smaller_px[0], target_px[0]) if smaller_px[0] < target_px[0] else None,
            cubic_matrix(smaller_px[1], target_px[1]) if smaller_px[1] < target_px[1] else None,
        )
        self.shrink = shrink if smaller_px != source_px else None
        self.grow = grow if smaller_px != target_px else None

    def forward(self, planes: Tensor) -> Tensor:
        """(N, 3, h, w) values of 0 to 255 to (N, 3, H, W) whole values of 0 to 255."""
        # The cubic kernel overshoots at edges, and samples the last step of shrinking too.
        if self.shrink is not None:
            planes = self.shrink(planes).round().clamp(0.0, 255.0)
        if self.grow is not None:
            planes = self.grow(planes).round().clamp(0.0, 255.0)
        return planes


class AxisProducts(nn.Module):
    """rows @ planes @ columns.T, in the order that costs less.

    Args:
        rows: (H, h), or None to leave the height.
        columns: (W, w), or None to leave the width.
    """

    rows: Tensor | None
    columns: Tensor | None

    def __init__(self, rows: Matrix | None, columns: Matrix | None) -> None:
        super().__init__()
        self.register_buffer("rows", None if rows is None else torch.from_numpy(rows))
        self.register_buffer("columns", None if columns is None else torch.from_numpy(columns.T.copy()))
        self.rows_first = rows is not None and columns is not None and _rows_cost_less(rows.shape, columns.shape)

    def forward(self, planes: Tensor) -> Tensor:
        """(N, 3, h, w) to (N, 3, H, W)."""
        if self.rows is not None and self.rows_first:
            planes = torch.matmul(self.rows, planes)
        if self.columns is not None:
            planes = torch.matmul(planes, self.columns)
        if self.rows is not None and not self.rows_first:
            planes = torch.matmul(self.rows, planes)
        return planes


def _rows_cost_less(rows: tuple[int, ...], columns: tuple[int, ...]) -> bool:
    (tall, h), (wide, w) = rows, columns
    return tall * h * w + tall * w * wide < h * w * wide + tall * h * wide


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
