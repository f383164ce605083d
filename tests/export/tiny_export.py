"""A tiny encoder with its pixels' statistics, exported by torch itself."""

from __future__ import annotations

import io
import warnings
from typing import Literal

import onnx
import torch
from torch import Tensor, nn

from tests.train.tiny_models import SIZE_PX, tiny_encoder


class _Graph(nn.Module):
    """Pixels to descriptors around a tiny encoder."""

    def __init__(self, kind: Literal["resnet", "vit"]) -> None:
        super().__init__()
        self.encoder = tiny_encoder(kind)

    def forward(self, image: Tensor) -> Tensor:
        rgb = image.flip(-1).permute(0, 3, 1, 2).float()
        descriptors: Tensor = self.encoder(rgb * (1 / 58) - 2.1)
        return descriptors


def export_tiny(kind: Literal["resnet", "vit"]) -> onnx.ModelProto:
    """A tiny encoder through torch's TorchScript exporter at operator set 17; nodes carry their scopes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Graph(kind).eval(),
            (torch.zeros(2, SIZE_PX, SIZE_PX, 3, dtype=torch.uint8),),
            buffer,  # type: ignore[arg-type]  # the old exporter writes to any binary file
            opset_version=17,
            dynamo=False,
            input_names=["image"],
            output_names=["descriptor"],
            dynamic_axes={"image": {0: "n"}, "descriptor": {0: "n"}},
        )
    return onnx.load_from_string(buffer.getvalue())
