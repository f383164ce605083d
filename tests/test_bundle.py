from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from progeo_edge.bundle import MANIFEST_NAME, Preprocess, read_foreign, read_manifest, write_manifest
from progeo_edge.encoders.onnx import OnnxEncoder
from progeo_edge.errors import ModelError
from progeo_edge.graph_file import check_file, open_graph
from tests.tiny_encoder import (
    BREAKAGES,
    FOREIGN_PREPROCESS,
    TINY_PREPROCESS,
    edit_manifest,
    write_tiny_bundle,
    write_tiny_foreign,
)

OTHER_VALUES: dict[str, Any] = {
    "width_px": 65,
    "height_px": 49,
    "color": "bgr",
    "layout": "nhwc",
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "resize": "linear",
    "aspect": "pad",
}

FOREIGN_PLAIN = FOREIGN_PREPROCESS.model_dump(mode="json")


def changed(**fields: Any) -> Preprocess:
    return Preprocess.model_validate({**FOREIGN_PREPROCESS.model_dump(), **fields})


def test_manifest_survives_writing_and_reading(tmp_path: Path):
    bundle = write_tiny_bundle(tmp_path / "bundle", precisions=("fp32", "fp16"))
    manifest = read_manifest(bundle)
    write_manifest(manifest, bundle)
    assert read_manifest(bundle) == manifest
    assert set(manifest.files) == {"model.onnx", "model.fp16.onnx", "golden.npz"}
    for name, sha256 in manifest.files.items():
        assert check_file(bundle, name, sha256) == bundle / name


def test_failed_writing_keeps_the_old_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bundle = write_tiny_bundle(tmp_path / "bundle")
    manifest = read_manifest(bundle)

    def full_disk(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_manifest(manifest.model_copy(update={"name": "other"}), bundle)
    assert read_manifest(bundle) == manifest
    assert sorted(path.name for path in bundle.iterdir()) == ["golden.npz", MANIFEST_NAME, "model.onnx"]


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_broken_bundle_is_refused_with_its_reason(breakage: str, tmp_path: Path):
    bundle = write_tiny_bundle(tmp_path / "bundle")
    damage, reason = BREAKAGES[breakage]
    damage(bundle)
    with pytest.raises(ModelError) as caught:
        OnnxEncoder(bundle)
    assert re.search(reason, str(caught.value)), str(caught.value)


def test_newer_schema_is_named_before_its_unknown_keys(tmp_path: Path):
    bundle = write_tiny_bundle(tmp_path / "bundle")
    edit_manifest(bundle, lambda values: values.update(schema_version=2, invented_later=True))
    with pytest.raises(ModelError, match="upgrade progeo-edge") as caught:
        read_manifest(bundle)
    assert "invented_later" not in str(caught.value)


def test_link_inside_the_bundle_is_allowed(tmp_path: Path):
    bundle = write_tiny_bundle(tmp_path / "bundle")
    (bundle / "model.onnx").rename(bundle / "blob")
    (bundle / "model.onnx").symlink_to("blob")
    assert open_graph(bundle).path == bundle / "model.onnx"


def test_precision_is_chosen_and_fp32_preferred(tmp_path: Path):
    bundle = write_tiny_bundle(tmp_path / "bundle", precisions=("fp16", "fp32"))
    assert open_graph(bundle).path.name == "model.onnx"
    assert open_graph(bundle, "fp16").path.name == "model.fp16.onnx"
    with pytest.raises(ModelError, match="holds no int8 graph; it holds fp16, fp32"):
        open_graph(bundle, "int8")
    half_only = write_tiny_bundle(tmp_path / "half", precisions=("fp16",))
    assert open_graph(half_only).path.name == "model.fp16.onnx"


def test_nothing_at_the_path(tmp_path: Path):
    for path in (tmp_path / "none", tmp_path / "none.onnx", tmp_path / "model.pt"):
        with pytest.raises(ModelError, match="is not there"):
            open_graph(path)


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_every_field_of_the_preprocessing_is_hashed(field: str):
    other = changed(**{field: OTHER_VALUES[field]})
    assert other.hash != FOREIGN_PREPROCESS.hash
    assert changed(**{field: getattr(FOREIGN_PREPROCESS, field)}).hash == FOREIGN_PREPROCESS.hash


def test_the_hash_is_stable_across_versions():
    assert TINY_PREPROCESS.hash == "10cd23baabf321126c5f9af21ef3e4609c0f5df31c0144e21542efadc6357923"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"mean": None}, "belong together"),
        ({"dtype": "uint8"}, "need dtype float32"),
        ({"std": (0.2, 0.0, 0.2)}, "must be positive"),
        ({"std": (0.2, float("nan"), 0.2)}, "finite"),
        ({"width_px": 0}, "greater than or equal to 1"),
        ({"width_px": 9000}, "less than or equal to 8192"),
        ({"width_px": True}, "valid integer"),
        ({"color": "grey"}, "'bgr' or 'rgb'"),
    ],
)
def test_senseless_preprocessing_is_refused(fields: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match=reason):
        changed(**fields)


def test_foreign_model_is_described_by_its_yaml(tmp_path: Path):
    path = write_tiny_foreign(tmp_path / "foreign", description={"dimension": 32, "output": "descriptor"})
    graph = open_graph(path)
    assert (graph.name, graph.dimension, graph.output_name) == ("tiny-foreign", 32, "descriptor")
    assert graph.preprocess == FOREIGN_PREPROCESS
    assert open_graph(write_tiny_foreign(tmp_path / "anonymous", description={"name": None})).name == "model"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"preproces": {}}, "'preproces' is unknown; did you mean 'preprocess'"),
        ({"preprocess": None}, "'preprocess' is missing"),
        (
            {"preprocess": {**FOREIGN_PREPROCESS.model_dump(mode="json"), "colour": "rgb"}},
            "did you mean 'preprocess.color'",
        ),
        ({"preprocess": {"width_px": 64, "height_px": 48}}, "'preprocess.mean' is missing"),
        ({"dimension": -1}, "dimension = -1"),
        ({"dimension": "many"}, "dimension = 'many'"),
        ({"sha256": "abc"}, "sha256 = 'abc'"),
        ({"sha256": "0" * 64}, "was altered or damaged"),
    ],
)
def test_wrong_yaml_is_refused(edit: dict[str, Any], reason: str, tmp_path: Path):
    path = write_tiny_foreign(tmp_path / "foreign", description=edit)
    with pytest.raises(ModelError, match=reason):
        open_graph(path)


@pytest.mark.parametrize("text", ["a: [", "when: 2024-01-01", "- 1", "", "!!python/object/apply:os.getcwd []", "\0"])
def test_yaml_of_another_kind_is_refused(text: str, tmp_path: Path):
    path = tmp_path / "model.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=re.escape(str(path))):
        read_foreign(path)


def test_foreign_model_without_yaml_or_with_a_precision(tmp_path: Path):
    path = write_tiny_foreign(tmp_path / "foreign")
    with pytest.raises(ModelError, match="precision='fp16' cannot be chosen"):
        open_graph(path, "fp16")
    path.with_suffix(".yaml").unlink()
    with pytest.raises(ModelError, match=r"has no model\.yaml beside it"):
        open_graph(path)


def test_the_documented_yaml_is_valid():
    document = Path(__file__).parents[1] / "docs" / "bundle.md"
    blocks = re.findall(r"```yaml\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        Preprocess.model_validate_json(json.dumps(yaml.safe_load(block)["preprocess"]))
