from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from progeo_edge.errors import ConfigError, InputError
from progeo_train.models.architectures import build_clip_modules
from progeo_train.models.text_tower import TextTower, tokenise

SENTENCES = ["A photo of a red X street.", "A photo of a big X bridge."]


def _model(*, custom: bool = False, **text: Any) -> nn.Module:
    config = json.loads(Path(__file__).with_name("tiny_vit.json").read_text(encoding="utf-8"))
    config["text_cfg"].update(text)
    torch.manual_seed(3)
    model = build_clip_modules({**config, "custom_text": custom}, quick_gelu=False)
    with torch.no_grad():
        for parameter in model.parameters():  # biases start at zero, which would hide one that is left out
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.double().eval()


def _plain(model: nn.Module) -> Tensor:
    features: Tensor = model.encode_text(open_clip.tokenize(SENTENCES))  # type: ignore[operator]
    return features


FORMS = [
    pytest.param({}, id="causal"),
    pytest.param({"custom": True}, id="custom-causal"),
    pytest.param({"custom": True, "no_causal_mask": True}, id="custom-bidirectional"),
    pytest.param({"no_causal_mask": True}, id="bidirectional"),
    pytest.param({"custom": True, "proj_bias": True}, id="projection-with-bias"),
    pytest.param({"pool_type": "eos", "eos_id": 49407}, id="eos"),
]


@pytest.mark.parametrize("form", FORMS)
def test_features_are_open_clips(form: dict[str, Any]) -> None:
    model = _model(**form)
    tower = TextTower(model)
    assert tower.causal == ("no_causal_mask" not in form)
    assert (tower.context_length, tower.width, tower.joint_dim) == (77, 32, 32)
    features = tower(tower.embed(open_clip.tokenize(SENTENCES)))
    # open_clip computes all 77 positions: equality shows that cutting after the end of text changes nothing.
    torch.testing.assert_close(features, _plain(model), rtol=1e-12, atol=1e-13)


def test_causal_tower_reads_nothing_after_the_end() -> None:
    embeddings = (tower := TextTower(_model())).embed(open_clip.tokenize(SENTENCES))
    poisoned = embeddings.clone()
    poisoned[:, len(tokenise(SENTENCES[0])) :] = torch.nan
    torch.testing.assert_close(tower(poisoned), tower(embeddings), rtol=0, atol=0)


def test_tower_is_frozen_and_passes_gradients_on() -> None:
    tower = TextTower(_model())
    embeddings = tower.embed(open_clip.tokenize(SENTENCES)).requires_grad_()
    tower(embeddings).sum().backward()
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert embeddings.grad is not None
    assert float(embeddings.grad[:, 3].abs().sum()) > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"pool_type": "last"}, "pools by 'last'"),
        ({"pool_type": "eos", "eos_id": 2}, "pools by 'eos'"),
        ({"embed_cls": True}, "class token"),
        ({"vocab_size": 32000}, "vocabulary of 32000"),
    ],
)
def test_other_towers_are_refused_by_name(text: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        TextTower(_model(custom=True, **text))
    assert "TextTransformer" in str(caught.value)


def test_input_without_end_or_of_another_width_is_refused() -> None:
    tower = TextTower(_model())
    with pytest.raises(InputError, match="no end-of-text token"):
        tower(torch.zeros(2, 77, 32, dtype=torch.float64))
    with pytest.raises(InputError, match=r"\(2, 77, 16\); expected \(n, L, 32\)"):
        tower(torch.zeros(2, 77, 16, dtype=torch.float64))


def test_tokens_run_from_start_to_end_of_text() -> None:
    row = open_clip.tokenize(SENTENCES)[0]
    tokens = tokenise(SENTENCES[0])
    assert tokens == row[: len(tokens)].tolist()
    assert (tokens[0], tokens[-1]) == (49406, 49407)
    assert len(tokenise("word " * 200)) == 202
