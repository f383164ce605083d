"""Settings: layers, strictness, and messages that say what to do."""

from __future__ import annotations

import pytest
import yaml

from progeo_edge.config import PROFILES, Config, config_from_dict, config_to_yaml, known_keys, load_config
from progeo_edge.errors import ConfigError


def test_defaults_are_the_conservative_profile():
    assert load_config() == Config()
    assert load_config(profile="conservative").profile == "conservative"


def test_later_layers_win(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("search: {top_k: 7, rerank: false}\n")
    config = load_config(
        path, profile="balanced", overrides=["search.top_k=9"], defaults={"budget": {"deadline_ms": 0}}
    )
    assert config.search.top_k == 9
    assert config.search.rerank is False
    assert config.budget.deadline_ms == 0
    assert config.motion.strong_inliers == PROFILES["balanced"]["motion"]["strong_inliers"]


def test_what_the_user_sets_beats_the_profile():
    config = load_config(profile="recall", overrides=["verification.enabled=true"])
    assert config.verification.enabled is True
    assert config.motion.method == "none"


def test_the_profile_may_come_from_the_file_or_an_override(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("profile: balanced\n")
    assert load_config(path).profile == "balanced"
    assert load_config(path, profile="recall").profile == "recall"
    assert load_config(path, profile="recall", overrides=["profile=conservative"]).profile == "conservative"


def test_effective_config_round_trips():
    config = load_config(profile="balanced", overrides=["search.top_k=3"])
    assert config_from_dict(yaml.safe_load(config_to_yaml(config))) == config


def test_unknown_key_names_the_nearest_known_one():
    with pytest.raises(ConfigError, match=r"'search\.topk' is unknown; did you mean 'search\.top_k'"):
        load_config(overrides=["search.topk=3"])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("search.top_k=many", r"search\.top_k = 'many'"),
        ("search.top_k=0", r"search\.top_k = 0"),
        ("verification.ratio=.nan", r"verification\.ratio = nan"),
        ("verification.detector=surf", r"verification\.detector = 'surf'"),
        ("search.top_k", "no assignment"),
        ("=3", "no assignment"),
        ("profile.x=3", "profile"),
        ("search.top_k=[", "cannot be read"),
    ],
)
def test_bad_values_are_named(assignment, message):
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=[assignment])


def test_unknown_profile_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"brave.*conservative, balanced, recall"):
        load_config(profile="brave")


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "just words"])
def test_a_file_that_is_no_config_is_refused(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load_config(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")


def test_config_is_immutable():
    with pytest.raises(ValueError, match="frozen"):
        setattr(Config().search, "top_k", 3)  # noqa: B010


def test_known_keys_are_settable():
    values = yaml.safe_load(config_to_yaml(Config()))
    for key in known_keys():
        node = values
        for part in key.split("."):
            node = node[part]
        load_config(overrides=[f"{key}={yaml.safe_dump(node).splitlines()[0]}"])
