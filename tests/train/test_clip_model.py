from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from progeo_edge.errors import ConfigError, ModelError
from progeo_train.config import ModelConfig
from progeo_train.models.architectures import find_architecture
from progeo_train.models.clip_model import ClipModel, build_clip, resize_positions
from progeo_train.models.weights_file import find_weights
from tests.train.tiny_models import JOINT_DIM, SIZE_PX, tiny_config

SIZE = (SIZE_PX, SIZE_PX)


def _clip(kind: Any = "vit", seed: int = 0, size: tuple[int, int] = SIZE, **changes: Any) -> ClipModel:
    torch.manual_seed(seed)
    return build_clip(tiny_config(kind, **changes), size)


def _weights(kind: Any = "vit", seed: int = 7) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in _clip(kind, seed).model.state_dict().items()}


def _same(first: ClipModel, tensors: dict[str, Tensor]) -> bool:
    own = first.model.state_dict()
    return all(torch.equal(own[name], value) for name, value in tensors.items())


def test_random_model_warns_loudly(caplog: pytest.LogCaptureFixture) -> None:
    clip = _clip()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "RANDOM" in record.message and "--pretrained" in record.message
    assert clip.joint_dim == JOINT_DIM == clip.visual(torch.zeros(1, 3, *SIZE)).shape[1]
    assert not clip.model.training and not any(p.requires_grad for p in clip.model.parameters())


def test_random_weights_follow_torchs_seed() -> None:
    assert _clip(seed=1).weights_fingerprint() == _clip(seed=1).weights_fingerprint()
    assert _clip(seed=1).weights_fingerprint() != _clip(seed=2).weights_fingerprint()


def test_fingerprint_sees_one_value_the_size_and_the_activation() -> None:
    clip = _clip("resnet")
    first = clip.weights_fingerprint()
    with torch.no_grad():
        clip.model.get_submodule("ln_final").bias[3] += 1e-6  # type: ignore[index, operator]
    assert clip.weights_fingerprint() != first
    found = {_clip(size=SIZE, quick_gelu=flag).weights_fingerprint() for flag in (True, False)}
    assert len(found | {_clip(size=(32, 128)).weights_fingerprint()}) == 3


@pytest.mark.parametrize("form", ["safetensors", "plain", "nested", "parallel"])
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_local_weights_are_loaded(kind: str, form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = _weights(kind)
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
    if form == "safetensors":
        save_file(tensors, path)
    elif form == "parallel":
        torch.save({f"module.{name}": value.half() for name, value in tensors.items()}, path)
        tensors = {name: value.half().to(value.dtype) for name, value in tensors.items()}
    else:
        torch.save({"epoch": 3, "state_dict": tensors} if form == "nested" else tensors, path)
    caplog.clear()
    clip = _clip(kind, pretrained=str(path))
    tensors.pop("logit_scale")
    assert _same(clip, tensors)
    assert not caplog.records


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_weights_of_another_architecture_are_named(change: str, tmp_path: Path) -> None:
    tensors = _weights()
    if change == "missing":
        del tensors["visual.ln_pre.weight"], tensors["text_projection"]
        expected = "2 missing: text_projection, visual.ln_pre.weight"
    elif change == "unexpected":
        tensors["visual.head.bias"] = torch.zeros(3)
        expected = "1 unexpected: visual.head.bias"
    else:
        tensors["visual.proj"] = torch.zeros(32, 16)
        expected = r"1 of another shape: visual.proj \(32, 16\) instead of \(32, 32\)"
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=expected):
        _clip(pretrained=str(tmp_path / "w.safetensors"))


def test_many_wrong_tensors_are_counted(tmp_path: Path) -> None:
    save_file(_weights("resnet"), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"missing: .* and \d+ more; \d+ unexpected: .* and \d+ more") as caught:
        _clip("vit", pretrained=str(tmp_path / "w.safetensors"))
    assert len(str(caught.value)) < 1000


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"visual.proj": _Touch(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(ModelError, match=r"evil.pt cannot be loaded as plain tensors.*expected a state dict") as caught:
        _clip(pretrained=str(tmp_path / "evil.pt"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


# TorchScript is deprecated, but OpenAI's files are in it.
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "RN50.pt"))
    with pytest.raises(ModelError, match=r"TorchScript.*--pretrained openai, or convert"):
        _clip(pretrained=str(tmp_path / "RN50.pt"))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_damaged_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("pt"):
        torch.save(_weights(), path)
    else:
        save_file(_weights(), path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ModelError, match=f"{name} cannot be"):
        _clip(pretrained=str(path))


def test_unknown_weights_list_the_tags() -> None:
    with pytest.raises(ConfigError, match=r"'opneai' is unknown; expected a local file or a tag of RN50 \(openai, "):
        build_clip(ModelConfig(backbone="RN50", pretrained="opneai"), (224, 224))
    with pytest.raises(ConfigError, match=r"'openai' is unknown.*tiny_vit has no tags"):
        _clip(pretrained="openai")


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.npz").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"suffix '.npz'; expected .safetensors"):
        _clip(pretrained=str(tmp_path / "w.npz"))


def test_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_tag: dict[str, Any]) -> str:
        raise RuntimeError("no route to host\nand a long trace")

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    with pytest.raises(
        ModelError, match=r"'openai' of RN50 cannot be downloaded \(no route to host\).*--pretrained FILE"
    ):
        build_clip(ModelConfig(backbone="RN50", pretrained="openai"), (224, 224))


def test_tag_is_handed_to_open_clip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    def download(tag: dict[str, Any]) -> str:
        asked.append(tag)
        return str(tmp_path / "got.safetensors")

    monkeypatch.setattr(open_clip, "download_pretrained", download)
    assert find_weights(find_architecture("RN50"), "openai") == tmp_path / "got.safetensors"
    assert asked == [open_clip.get_pretrained_cfg("RN50", "openai")]


class _AsIfBuiltIn:
    """Makes the tiny ViT an open_clip architecture with a tag that needs QuickGELU and one that does not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        architecture = folder / "tiny-known.json"
        shutil.copy(Path(__file__).with_name("tiny_vit.json"), architecture)
        twin = {**json.loads(architecture.read_text(encoding="utf-8")), "quick_gelu": True}
        configs = {"tiny-known": find_architecture(str(architecture)).config, "tiny-known-quickgelu": twin}
        self.file = folder / "weights.safetensors"
        save_file(_weights(), self.file)
        monkeypatch.setattr(open_clip, "list_models", lambda: list(configs))
        monkeypatch.setattr(open_clip, "get_model_config", lambda name: configs[name])
        tags = {"openai": {"quick_gelu": True}, "laion": {"quick_gelu": False}}
        monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda _name, tag: tags.get(tag, {}))
        monkeypatch.setattr(open_clip, "download_pretrained", lambda _tag: str(self.file))

    def build(self, backbone: str = "tiny-known", **changes: Any) -> ClipModel:
        return build_clip(tiny_config("vit", backbone=backbone, **changes), SIZE)


@pytest.mark.parametrize(
    ("backbone", "tag", "setting", "expected", "warning"),
    [
        ("tiny-known", "openai", None, True, ""),
        ("tiny-known", "laion", None, False, ""),
        ("tiny-known-quickgelu", "openai", None, True, ""),
        ("tiny-known", "openai", False, False, "trained with True"),
        ("tiny-known", "laion", True, True, "trained with False"),
        ("tiny-known", "FILE", None, False, "if they are OpenAI's, set model.quick_gelu=true"),
        ("tiny-known", "FILE", False, False, ""),
        ("tiny-known", "FILE", True, True, ""),
        ("tiny-known-quickgelu", "FILE", None, True, ""),
    ],
)
def test_activation_follows_the_weights(
    backbone: str,
    tag: str,
    setting: bool | None,
    expected: bool,
    warning: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = _AsIfBuiltIn(monkeypatch, tmp_path)
    caplog.clear()
    clip = known.build(backbone, pretrained=str(known.file) if tag == "FILE" else tag, quick_gelu=setting)
    activations = {type(module).__name__ for module in clip.model.modules() if "GELU" in type(module).__name__}
    assert activations == {"QuickGELU" if expected else "GELU"}
    assert clip.quick_gelu == expected
    messages = [record.message for record in caplog.records]
    assert len(messages) == (1 if warning else 0)
    assert not warning or warning in messages[0]


@pytest.mark.parametrize("kind", ["resnet", "vit"])
@pytest.mark.parametrize("size", [(64, 64), (128, 128), (32, 128), (96, 160)])
def test_loaded_model_takes_any_size(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    tensors = _weights(kind)
    save_file(tensors, tmp_path / "w.safetensors")
    clip = _clip(kind, size=size, pretrained=str(tmp_path / "w.safetensors"))
    assert clip.visual(torch.zeros(2, 3, *size)).shape == (2, JOINT_DIM)
    name = "visual.attnpool.positional_embedding" if kind == "resnet" else "visual.positional_embedding"
    stride = 32 if kind == "resnet" else 16
    positions = clip.model.state_dict()[name]
    assert len(positions) == 1 + (size[0] // stride) * (size[1] // stride)
    torch.testing.assert_close(positions[0], tensors[name][0], rtol=0, atol=0)
    if size == SIZE:
        torch.testing.assert_close(positions, tensors[name], rtol=0, atol=0)
    elif len(positions) == len(tensors[name]):  # another shape of equally many positions is interpolated too
        assert not torch.allclose(positions, tensors[name], atol=1e-3)


def test_random_model_takes_any_size() -> None:
    for kind in ("resnet", "vit"):
        assert _clip(kind, size=(96, 160)).visual(torch.zeros(2, 3, 96, 160)).shape == (2, JOINT_DIM)


@pytest.mark.parametrize("new", [(8, 12), (6, 20)])
def test_interpolated_positions_keep_a_ramp(new: tuple[int, int]) -> None:
    rows, columns = np.meshgrid(np.arange(6) + 0.5, np.arange(10) + 0.5, indexing="ij")
    grid = np.stack([rows / 6, columns / 10], axis=-1).reshape(-1, 2)
    embedding = torch.from_numpy(np.concatenate([[[7.0, 8.0]], grid]))
    resized = resize_positions(embedding, (6, 10), new).detach().numpy()
    np.testing.assert_array_equal(resized[0], [7.0, 8.0])
    found = resized[1:].reshape(*new, 2)
    rows, columns = np.meshgrid((np.arange(new[0]) + 0.5) / new[0], (np.arange(new[1]) + 0.5) / new[1], indexing="ij")
    inner = (slice(2, -2), slice(4, -4))  # at the border a cubic sees the repeated edge
    np.testing.assert_allclose(found[..., 0][inner], rows[inner], atol=0.02)
    np.testing.assert_allclose(found[..., 1][inner], columns[inner], atol=0.02)


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("vit", (64, 72), r"64 x 72 px does not fit patches of 16 px; expected multiples of 16, such as 64 x 64"),
        ("resnet", (64, 31), r"64 x 31 px is too small for a ResNet; expected 32 px at least"),
    ],
)
def test_size_that_does_not_fit_is_refused(kind: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _clip(kind, size=size)


def test_unknown_backbone_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'RN51' is unknown; expected an open_clip architecture.*progeo-compact"):
        build_clip(ModelConfig(backbone="RN51"), SIZE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "lacks one of embed_dim, vision_cfg, text_cfg"),
        ('{"embed_dim": 4, "vision_cfg": {}, "text_cfg": {"hf_model_name": "bert"}}', "Hugging Face"),
        ('{"embed_dim": 4, "vision_cfg": {}, "text_cfg": {}, "multimodal_cfg": {}}', "CoCa"),
    ],
)
def test_bad_architecture_file_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        build_clip(ModelConfig(backbone=str(path)), SIZE)


def test_missing_architecture_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        build_clip(ModelConfig(backbone=str(tmp_path / "none.json")), SIZE)
