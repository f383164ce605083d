"""Parameters are the config classes, flat."""

from __future__ import annotations

import pytest

from progeo_edge.config import PROFILES, Config, known_keys, load_config
from progeo_edge.errors import ConfigError
from progeo_ros.config import NodeConfig
from progeo_ros.parameters import configs_from, parameter_specs, refuse_change, unknown_names

SPECS = {spec.name: spec for spec in parameter_specs()}


def test_every_setting_of_detector_and_node_is_a_parameter_once():
    assert set(known_keys()) <= set(SPECS)
    assert {"model.path", "map.read_only", "adapters", "relocalize.timeout_s"} <= set(SPECS)
    assert len(SPECS) == len(parameter_specs())


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_parameter_is_described(spec):
    assert spec.description, f"{spec.name} needs a description in its config class"
    types = {"bool": bool, "int": int, "float": float, "str": str, "strings": list}
    assert type(spec.default) is types[spec.kind]


def test_bounds_and_choices_come_along():
    assert (SPECS["verification.ratio"].minimum, SPECS["verification.ratio"].maximum) == (0, 1)
    assert (SPECS["search.top_k"].minimum, SPECS["search.top_k"].maximum) == (1, 1000)
    assert SPECS["frames.base"].minimum is None
    assert SPECS["input.transport"].choices == ("raw", "compressed")
    assert SPECS["profile"].choices == tuple(PROFILES)
    assert "recorder" in SPECS["adapters"].choices


@pytest.mark.parametrize("profile", PROFILES)
def test_defaults_become_the_profile_s_config_again(profile):
    defaults = {spec.name: spec.default for spec in parameter_specs(profile)}
    node_config, config = configs_from(defaults)
    assert config == load_config(profile=profile)
    assert node_config == NodeConfig()


def test_left_out_names_have_the_profile_s_default_and_own_values_win():
    _, config = configs_from({"profile": "balanced", "verification.min_inliers": 25})
    assert (config.verification.min_inliers, config.verification.min_coverage) == (25, 0.05)
    assert configs_from({}) == (NodeConfig(), Config())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"profile": "daring"}, "profile 'daring' is unknown"),
        ({"verification.ratio": 1.5}, "verification.ratio = 1.5"),
        ({"gate.min_similarty": 0.5}, "did you mean 'gate.min_similarity'?"),
        ({"input.transport": "theora"}, "input.transport = 'theora'"),
        ({"map.pth": "x"}, "did you mean 'map.path'?"),
    ],
)
def test_wrong_values_are_named(values, sentence):
    with pytest.raises(ConfigError, match="|".join([sentence.replace("?", r"\?")])):
        configs_from(values)


def test_only_what_the_map_does_not_depend_on_changes_while_configured():
    refuse_change(["gate.min_similarity", "exclusion.time_s", "verification.min_inliers", "use_sim_time"], SPECS)
    for name in ("verification.detector", "verification.max_features", "store.features", "map.path", "profile"):
        with pytest.raises(ConfigError, match=f"{name} cannot change while the node is configured"):
            refuse_change([name], SPECS)


def test_unknown_names_are_answered_with_the_nearest():
    assert unknown_names(["search.top_k"], SPECS) == []
    assert unknown_names(["search.topk"], SPECS) == [
        "parameter search.topk is unknown and has no effect; did you mean search.top_k?"
    ]
    assert "lists the parameters" in unknown_names(["colour"], SPECS)[0]
