from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch import nn

from progeo_edge.errors import ConfigError
from progeo_train.config import PromptConfig
from progeo_train.models.architectures import build_clip_modules
from progeo_train.models.prompts import PromptLearner, read_template
from progeo_train.models.text_tower import TextTower

TEMPLATE = PromptConfig().template


def _model(custom: bool = False, causal: bool = True) -> nn.Module:
    config = json.loads(Path(__file__).with_name("tiny_resnet.json").read_text(encoding="utf-8"))
    config["text_cfg"]["no_causal_mask"] = not causal
    torch.manual_seed(5)
    return build_clip_modules({**config, "custom_text": custom}, quick_gelu=False).double().eval()


def _learner(tower: TextTower, classes: int = 6, seed: int = 0, **config: Any) -> PromptLearner:
    return PromptLearner(tower, classes, PromptConfig(**config), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("custom", [True, False])
def test_with_the_embedding_of_x_it_is_the_plain_sentence(custom: bool, causal: bool) -> None:
    model = _model(custom, causal)
    tower = TextTower(model)
    learner = _learner(tower)
    x = open_clip.tokenize(["X"])[0, 1]
    with torch.no_grad():
        learner.class_tokens.copy_(tower.token_embedding.weight[x].expand_as(learner.class_tokens))
    features = tower(learner(torch.tensor([0, 5])))
    plain = model.encode_text(open_clip.tokenize([TEMPLATE, TEMPLATE]))  # type: ignore[operator]
    torch.testing.assert_close(features, plain, rtol=1e-12, atol=1e-13)


def test_assembly_places_each_classs_own_tokens() -> None:
    tower = TextTower(_model())
    learner = _learner(tower)
    labels = torch.tensor([4, 0, 4])
    prompts = learner(labels).detach().numpy()
    # Start of text, "a photo of a", four X, "street .", end of text, padding with token 0.
    table = tower.token_embedding.weight.numpy()
    expected = table[open_clip.tokenize([TEMPLATE] * 3).numpy()]
    tokens = learner.class_tokens.detach().numpy()
    for row, label in zip(expected, labels.tolist(), strict=True):
        for word in range(4):
            row[5 + word] = tokens[label, word]
    np.testing.assert_array_equal(prompts, expected)


def test_only_the_classes_of_the_batch_get_gradients() -> None:
    tower = TextTower(_model())
    learner = _learner(tower)
    assert [name for name, _ in learner.named_parameters()] == ["class_tokens"]
    assert list(learner.state_dict()) == ["class_tokens"]
    tower(learner(torch.tensor([1, 3]))).square().sum().backward()
    assert learner.class_tokens.grad is not None
    moved = learner.class_tokens.grad.abs().sum(dim=(1, 2)) > 0
    assert moved.tolist() == [False, True, False, True, False, False]


def test_tokens_start_normal_with_the_stated_spread() -> None:
    learner = _learner(TextTower(_model()), classes=2000, init_std=0.05)
    drawn = learner.class_tokens.detach()
    assert drawn.shape == (2000, 4, 32)
    assert abs(float(drawn.mean())) < 5e-4
    assert float(drawn.std()) == pytest.approx(0.05, rel=0.01)
    # A normal has a kurtosis of 3, a uniform of 1.8.
    assert float(((drawn / drawn.std()) ** 4).mean()) == pytest.approx(3.0, abs=0.1)


def test_tokens_follow_the_generator_alone() -> None:
    tower = TextTower(_model())
    first = _learner(tower, seed=1).class_tokens
    torch.manual_seed(99)
    assert torch.equal(first, _learner(tower, seed=1).class_tokens)
    assert not torch.equal(first, _learner(tower, seed=2).class_tokens)


def test_any_number_of_words_anywhere() -> None:
    template = read_template("X X at night", 77)
    assert (template.first, template.count) == (1, 2)
    learner = _learner(TextTower(_model()), template="a X street")
    assert learner.class_tokens.shape == (6, 1, 32)
    assert learner(torch.tensor([0])).shape == (1, 77, 32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A photo of a street.", "has no word X"),
        ("A photo of XX.", "has no word X"),
        ("A photo of a X X X.", "2 words X but 3 such tokens"),
        ("A photo of a X by x", "1 words X but 2 such tokens"),
        ("A X photo of a X street.", "words between its X"),
        ("X " + "very " * 80 + "long street", "has 85 tokens, the text tower takes 77"),
    ],
)
def test_bad_templates_are_explained(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_template(text, 77)
