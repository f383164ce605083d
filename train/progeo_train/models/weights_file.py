"""CLIP weights from an open_clip tag or a local file, loaded without running any code of the file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from progeo_edge.errors import ConfigError, ModelError
from progeo_train.models.architectures import Architecture

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
# Numbers that OpenAI keeps beside its weights, and the temperature of CLIP's own training.
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "logit_scale", "logit_bias")
_NAMED_AT_MOST = 5


def find_weights(architecture: Architecture, pretrained: str) -> Path:
    """The file of a tag (downloaded into open_clip's cache unless it is there), or the local file itself.

    Raises:
        ConfigError: neither a tag of this architecture nor a file of a known kind.
        ModelError: the download failed.
    """
    path = Path(pretrained).expanduser()
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise ConfigError(f"model.pretrained {path} has the suffix {path.suffix!r}; expected {', '.join(SUFFIXES)}")
        return path
    tag = tag_config(architecture, pretrained)
    if tag is None:
        tags = open_clip.list_pretrained_tags_by_model(architecture.name) if architecture.built_in else []
        known = f"a tag of {architecture.name} ({', '.join(tags)})" if tags else f"({architecture.name} has no tags)"
        raise ConfigError(f"model.pretrained {pretrained!r} is unknown; expected a local file or {known}")
    try:
        return Path(open_clip.download_pretrained(tag))
    except Exception as error:  # network, hub and file errors of several libraries
        raise ModelError(
            f"the weights {pretrained!r} of {architecture.name} cannot be downloaded ({_one_line(error)}); check the "
            "network, or give a local file of open_clip's weights with --pretrained FILE"
        ) from error


def tag_config(architecture: Architecture, pretrained: str) -> dict[str, Any] | None:
    """What open_clip knows of a tag (`quick_gelu`, `mean`, `std`); None when it is no tag of this architecture."""
    if not architecture.built_in:
        return None
    return open_clip.get_pretrained_cfg(architecture.name, pretrained) or None


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill an open_clip model; every tensor must be there with its shape, and no other.

    Raises:
        ModelError: unreadable, with code in it, or weights of another architecture; wrong tensors are named.
    """
    tensors = {name: value for name, value in _read_tensors(path).items() if name not in _NO_WEIGHTS}
    expected = {name: value for name, value in model.state_dict().items() if name not in _NO_WEIGHTS}
    problems = [
        *_named("missing", sorted(expected.keys() - tensors.keys())),
        *_named("unexpected", sorted(tensors.keys() - expected.keys())),
        *_named(
            "of another shape",
            [
                f"{name} {tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
                for name, value in expected.items()
                if name in tensors and tensors[name].shape != value.shape
            ],
        ),
    ]
    if problems:
        raise ModelError(
            f"weights {path} are not of this architecture: {'; '.join(problems)}; give the weights of model.backbone, "
            "in open_clip's names"
        )
    model.load_state_dict(tensors, strict=False)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _torch_load(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"weights {path} cannot be read: {_one_line(error)}; copy or download them again") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(f"weights {path} hold no state dict; expected tensors by name")
    # A model that was trained on several GPUs.
    wrapped = all(name.startswith("module.") for name in content)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in content.items()}


def _torch_load(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    if _is_torchscript(path):
        raise ModelError(
            f"weights {path} are a TorchScript program (OpenAI's own files are), which runs code when loaded; use "
            "--pretrained openai, or convert a file that you trust: torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        raise ModelError(
            f"weights {path} cannot be loaded as plain tensors ({_one_line(error)}); expected a state dict without "
            "other objects, best as .safetensors"
        ) from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _named(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return [f"{len(names)} {what}: {', '.join(names[:_NAMED_AT_MOST])}{more}"]


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
