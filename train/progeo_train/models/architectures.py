"""CLIP architectures by name or JSON file, and image towers built from them, without weights.

An architecture is open_clip's JSON form: `embed_dim`, `vision_cfg`, `text_cfg`, and optionally `quick_gelu` and
`custom_text`. Ours are in `progeo_train/architectures/`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import open_clip
from torch import nn

from progeo_edge.errors import ConfigError

ARCHITECTURES = Path(__file__).parents[1] / "architectures"

TowerKind = Literal["clip_resnet", "clip_vit", "clip_other"]

RESNET_STRIDE_PX = 32
# A text tower that costs nothing, for when only the image tower is wanted: open_clip builds both or none.
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


@dataclass(frozen=True)
class Architecture:
    """One CLIP architecture.

    Attributes:
        name: open_clip's name, ours, or the stem of a JSON file.
        config: open_clip's JSON form.
        built_in: Whether open_clip knows the name, and with it tags of weights.
    """

    name: str
    config: Mapping[str, Any]
    built_in: bool

    @property
    def kind(self) -> TowerKind:
        """Which image tower it has."""
        return tower_kind(self.config)

    @property
    def joint_dim(self) -> int:
        """Dimension of the space that images and texts share."""
        return int(self.config["embed_dim"])

    @property
    def quick_gelu(self) -> bool:
        """Whether it asks for QuickGELU by itself."""
        return bool(self.config.get("quick_gelu", False))


def find_architecture(backbone: str) -> Architecture:
    """Look up an architecture.

    Args:
        backbone: open_clip's name ("RN50", "ViT-B/16"), one of ours ("progeo-compact"), or a JSON file.

    Raises:
        ConfigError: unknown name, or a file that is no architecture.
    """
    ours = ARCHITECTURES / f"{backbone}.json"
    if backbone == Path(backbone).name and ours.is_file():
        return Architecture(backbone, _read_architecture(ours), built_in=False)
    if backbone.endswith(".json"):
        return Architecture(Path(backbone).stem, _read_architecture(Path(backbone)), built_in=False)
    name = backbone.replace("/", "-")
    if name not in open_clip.list_models():
        raise ConfigError(
            f"model.backbone {backbone!r} is unknown; expected an open_clip architecture such as RN50 or ViT-B-16, "
            f"one of ours ({', '.join(sorted(path.stem for path in ARCHITECTURES.glob('*.json')))}), or a .json file"
        )
    config = open_clip.get_model_config(name)
    _check_sections(config, name)
    return Architecture(name, config, built_in=True)


def tower_kind(config: Mapping[str, Any]) -> TowerKind:
    """Which image tower an architecture has."""
    vision = config["vision_cfg"]
    if vision.get("timm_model_name"):
        return "clip_other"
    return "clip_resnet" if isinstance(vision["layers"], (list, tuple)) else "clip_vit"


def build_clip_modules(config: Mapping[str, Any], quick_gelu: bool) -> nn.Module:
    """A randomly initialised open_clip model; nothing is downloaded.

    Args:
        config: Architecture in open_clip's JSON form.
        quick_gelu: x * sigmoid(1.702 x) in place of GELU, which OpenAI's weights need.
    """
    arguments = deepcopy(dict(config))
    custom_text = arguments.pop("custom_text", False)
    arguments["quick_gelu"] = quick_gelu
    if arguments["vision_cfg"].get("timm_model_name"):
        arguments["vision_cfg"]["timm_model_pretrained"] = False
    model: nn.Module = (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**arguments)
    return model


def build_image_tower(config: Mapping[str, Any], image_size_px: tuple[int, int], quick_gelu: bool) -> nn.Module:
    """A randomly initialised image tower for one input size, the text tower left out.

    A ResNet keeps the attention pool of the architecture's own size; see `place_encoder`, which drops it.

    Args:
        config: Architecture in open_clip's JSON form.
        image_size_px: Height and width of the input.
        quick_gelu: See `build_clip_modules`.

    Raises:
        ConfigError: a size that the tower cannot take.
    """
    check_image_size(config, image_size_px)
    tower = build_clip_modules({**at_size(config, image_size_px), "text_cfg": _NO_TEXT}, quick_gelu).get_submodule(
        "visual"
    )
    if tower_kind(config) == "clip_other":
        set_timm_size(tower, image_size_px)
    return tower


def at_size(config: Mapping[str, Any], image_size_px: tuple[int, int]) -> dict[str, Any]:
    """The architecture of a ViT for another input size; a ResNet's convolutions take any size, so it stays."""
    sized = deepcopy(dict(config))
    if tower_kind(config) == "clip_vit":
        sized["vision_cfg"]["image_size"] = list(image_size_px)
    return sized


def set_timm_size(tower: nn.Module, image_size_px: tuple[int, int]) -> None:
    """Fit a timm tower to an input size; most convolutional ones take any."""
    tower.set_input_size(image_size_px)  # type: ignore[operator]


def check_image_size(config: Mapping[str, Any], image_size_px: tuple[int, int]) -> None:
    """Refuse a size that the image tower cannot take.

    Raises:
        ConfigError: a ViT's size that is no multiple of its patch, or less than a ResNet's stride.
    """
    height, width = image_size_px
    kind = tower_kind(config)
    if kind == "clip_resnet" and min(height, width) < RESNET_STRIDE_PX:
        raise ConfigError(
            f"image size {height} x {width} px is too small for a ResNet; expected {RESNET_STRIDE_PX} px at least"
        )
    patch = config["vision_cfg"].get("patch_size", 16) if kind == "clip_vit" else 1
    if min(height, width) < 1 or height % patch or width % patch:
        near = " x ".join(str(max(1, round(side / patch)) * patch) for side in (height, width))
        raise ConfigError(
            f"image size {height} x {width} px does not fit patches of {patch} px; expected multiples of {patch}, "
            f"such as {near}"
        )


def _read_architecture(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"architecture {path} cannot be read as JSON: {error}") from error
    _check_sections(config, str(path))
    return dict(config)


def _check_sections(config: object, name: str) -> None:
    expected = {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}
    if not isinstance(config, dict) or any(not isinstance(config.get(key), kind) for key, kind in expected.items()):
        raise ConfigError(f"architecture {name} lacks one of {', '.join(expected)}; expected open_clip's JSON form")
    if "multimodal_cfg" in config or config["text_cfg"].get("hf_model_name"):
        raise ConfigError(
            f"architecture {name} has a text model of another kind (CoCa or Hugging Face), which is not supported; "
            "choose one with CLIP's own text tower"
        )
