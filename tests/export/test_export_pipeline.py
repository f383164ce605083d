"""A whole export: the bundle describes images as the checkpoint does, or there is no bundle."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from progeo_edge.bundle import MANIFEST_NAME, NOT_TRAINED, read_manifest
from progeo_edge.encoders import load_encoder
from progeo_edge.errors import ConfigError, ModelError
from progeo_edge.graph_file import file_sha256
from progeo_export import graph_module, pipeline
from progeo_export.checkpoint_input import open_model
from progeo_export.errors import ExportError
from progeo_export.gates import LIMITS, tolerances
from progeo_export.half.half_typing import to_half
from progeo_export.half.islands import default_islands, in_head
from progeo_export.onnx_export import Opset
from progeo_export.pipeline import ExportOptions, export_bundle
from progeo_train.checkpoint_file import CheckpointRecord, model_tensors, write_checkpoint
from tests.export.probe_samples import small_probe
from tests.train.tiny_models import SIZE_PX, tiny_config, tiny_encoder

torch.set_num_threads(1)

# The old exporter is several times faster than the present one on tiny models.
FAST: Opset = 17


def write(encoder, path, **changes):
    """A checkpoint of an encoder; `changes` are those of its spec."""
    spec = encoder.spec.model_copy(update=changes)
    write_checkpoint(path, CheckpointRecord(encoder=spec), model_tensors(encoder))
    return path


def pictures():
    """Images of other sizes than the probe's and the model's; one of them grey."""
    sizes = [(64, 64), (120, 160), (48, 80), (301, 33)]
    images = [np.ascontiguousarray(cut(small_probe().images[k], size)) for k, size in enumerate(sizes)]
    return [*images, images[1].mean(axis=2).astype(np.uint8)]


def cut(image, size):
    return np.tile(image, (3, 1, 1))[: size[0], : size[1]]


def describe(path, images=None, **choice):
    # Half precision by ONNX Runtime, which computes it in FP32, and not by OpenVINO in bfloat16.
    encoder = load_encoder(path, **({"backend": "onnx", **choice} if path.is_dir() else choice))
    try:
        return encoder.encode(pictures() if images is None else images)
    finally:
        encoder.close()


def lowest_cosine(first, second):
    assert first.shape == second.shape
    return np.sum(first.astype(np.float64) * second, axis=1).min()


def tell_apart(rows):
    """Equal descriptors would pass any comparison; the grey picture is the last, and like the second."""
    return (rows[:4] @ rows[:4].T)[np.triu_indices(4, 1)].min() < 0.99


def nothing_left(folder):
    return sorted(path.name for path in folder.iterdir()) == ["best.safetensors"]


@pytest.fixture(scope="module", params=[("resnet", 17), ("vit", 18)], ids=lambda p: f"{p[0]}-{p[1]}")
def made(request, tmp_path_factory):
    """Of an FP16 export: kind, opset, checkpoint, bundle, manifest and the steps that were told."""
    kind, opset = request.param
    folder = tmp_path_factory.mktemp(f"{kind}{opset}")
    checkpoint = write(tiny_encoder(kind), folder / "best.safetensors")
    steps: list[str] = []
    options = ExportOptions(fp16=True, opset=opset, max_batch=3)
    manifest = export_bundle(str(checkpoint), folder / "bundle", small_probe(), options, steps.append)
    return kind, opset, checkpoint, folder / "bundle", manifest, steps


def test_bundle_describes_as_the_checkpoint_does(made):
    _, _, checkpoint, bundle, _, _ = made
    expected = describe(checkpoint)
    assert tell_apart(expected)
    assert lowest_cosine(describe(bundle, precision="fp32"), expected) > 0.99999
    assert lowest_cosine(describe(bundle, precision="fp16"), expected) > 0.9999


def test_manifest_states_what_was_measured(made):
    kind, opset, checkpoint, bundle, manifest, steps = made
    assert manifest == read_manifest(bundle)
    assert manifest.checkpoint_sha256 == file_sha256(checkpoint)
    assert manifest.opset == opset and manifest.max_batch == 3 and manifest.dimension == 32
    assert manifest.architecture == ("tiny_resnet-GeM" if kind == "resnet" else "tiny_vit")
    assert manifest.probe_images == "rendered street, 12 places"
    assert set(manifest.graphs) == set(manifest.parity) == set(manifest.tolerances) == {"fp32", "fp16"}
    for precision, figures in manifest.parity.items():
        assert manifest.tolerances[precision] == tolerances(LIMITS[precision])
        assert set(figures) >= set(manifest.tolerances[precision])
    assert 1 - 1e-5 <= manifest.parity["fp32"]["min_cosine"] <= 1 + 1e-9
    # Half must show: figures of exactly FP32 would mean that half was never computed.
    assert 1e-7 < manifest.parity["fp16"]["interplace_loss_mean"] < 0.02
    assert len(steps) == 5 and "FP16" in steps[3]


def test_manifest_names_the_island(made):
    kind, _, _, _, manifest, _ = made
    parts = {name.split("/")[1] for name in manifest.islands}
    assert "head" in parts and "prologue" in parts
    assert ("trunk" in parts) == (kind == "vit")  # its layer norms and softmax
    assert any("in half" in note and "in FP32" in note for note in manifest.notes)
    assert NOT_TRAINED not in manifest.notes


def test_manifest_says_that_stock_weights_are_not_trained(tmp_path, monkeypatch):
    def stock(*arguments):
        return dataclasses.replace(open_model(*arguments), warning="stock")

    monkeypatch.setattr(pipeline, "open_model", stock)
    checkpoint = write(tiny_encoder("resnet"), tmp_path / "best.safetensors")
    export_bundle(str(checkpoint), tmp_path / "bundle", small_probe(), ExportOptions(opset=FAST, max_batch=1))
    assert NOT_TRAINED in read_manifest(tmp_path / "bundle").notes


def test_files_are_of_both_precisions(made):
    _, _, _, bundle, manifest, _ = made
    assert sorted(path.name for path in bundle.iterdir()) == sorted([*manifest.files, MANIFEST_NAME])
    sizes = {precision: (bundle / name).stat().st_size for precision, name in manifest.graphs.items()}
    assert sizes["fp16"] < 0.75 * sizes["fp32"]
    for name in manifest.graphs.values():
        model = onnx.load(bundle / name)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", manifest.opset)]
        (image,), (descriptor,) = model.graph.input, model.graph.output
        assert (image.name, descriptor.name) == (manifest.input_name, manifest.output_name)
        assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        assert descriptor.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert image.type.tensor_type.shape.dim[0].dim_param, "any batch"


def test_another_size(tmp_path):
    encoder = tiny_encoder("resnet")
    checkpoint = write(encoder, tmp_path / "best.safetensors")
    expected = describe(write(encoder, tmp_path / "wide.safetensors", image_size_px=(64, 96)))
    options = ExportOptions(opset=FAST, size_px=(64, 96), max_batch=1)
    manifest = export_bundle(str(checkpoint), tmp_path / "bundle", small_probe(), options)
    assert (manifest.preprocess.height_px, manifest.preprocess.width_px) == (64, 96)
    found = describe(tmp_path / "bundle")
    assert lowest_cosine(found, expected) > 0.99999
    assert lowest_cosine(found, describe(checkpoint)) < 0.99999


def test_float_input(tmp_path):
    checkpoint = write(tiny_encoder("resnet"), tmp_path / "best.safetensors")
    options = ExportOptions(fp16=True, opset=FAST, input_kind="float", max_batch=1)
    manifest = export_bundle(str(checkpoint), tmp_path / "bundle", small_probe(), options)
    assert (manifest.preprocess.dtype, manifest.preprocess.layout) == ("float32", "nchw")
    expected = describe(checkpoint)
    assert lowest_cosine(describe(tmp_path / "bundle", precision="fp32"), expected) > 0.99999
    assert lowest_cosine(describe(tmp_path / "bundle", precision="fp16"), expected) > 0.9999


def test_resize_in_the_graph(tmp_path):
    checkpoint = write(tiny_encoder("resnet"), tmp_path / "best.safetensors")
    options = ExportOptions(fp16=True, opset=FAST, fuse_resize_px=(120, 160), max_batch=1)
    manifest = export_bundle(str(checkpoint), tmp_path / "bundle", small_probe(), options)
    assert (manifest.preprocess.height_px, manifest.preprocess.width_px) == (120, 160)
    frames = list(small_probe().images[:4])
    assert frames[0].shape == (120, 160, 3) and SIZE_PX not in frames[0].shape
    expected = describe(checkpoint, frames)
    assert tell_apart(expected)
    assert lowest_cosine(describe(tmp_path / "bundle", frames, precision="fp32"), expected) > 0.99999
    assert lowest_cosine(describe(tmp_path / "bundle", frames, precision="fp16"), expected) > 0.9999
    prologue = {node.name for node in onnx.load(tmp_path / "bundle" / "model.onnx").graph.node if in_prologue(node)}
    assert any("MatMul" in name for name in prologue) and prologue <= set(manifest.islands)


def in_prologue(node):
    return node.name.startswith("/prologue/") and node.op_type != "Constant"


def test_resize_in_the_graph_of_a_camera_that_the_probe_does_not_have(tmp_path):
    """The probe images become frames of that camera first, for torch as for the graph."""
    checkpoint = write(tiny_encoder("resnet"), tmp_path / "best.safetensors")
    options = ExportOptions(opset=FAST, fuse_resize_px=(300, 90), max_batch=1)
    manifest = export_bundle(str(checkpoint), tmp_path / "bundle", small_probe(), options)
    assert (manifest.preprocess.height_px, manifest.preprocess.width_px) == (300, 90)


def linear(encoder):
    layer = encoder.head.get_submodule("linear")
    assert isinstance(layer, nn.Linear)
    return layer


def loud(factor):
    """A ResNet whose last map is `factor` times as large; its descriptors are the same, since the head normalises."""
    encoder = tiny_encoder("resnet")
    block = list(encoder.trunk.get_submodule("layer4").children())[-1]
    norms = [block.get_submodule("bn3"), *block.get_submodule("downsample").children()]
    with torch.no_grad():
        for norm in (part for part in norms if isinstance(part, nn.BatchNorm2d)):
            norm.weight.mul_(factor)
            norm.bias.mul_(factor)
    return encoder


def export_half(encoder, folder):
    checkpoint = write(encoder, folder / "best.safetensors")
    return export_bundle(
        str(checkpoint), folder / "bundle", small_probe(), ExportOptions(fp16=True, opset=FAST, max_batch=1)
    )


def without_widening(monkeypatch):
    monkeypatch.setattr(pipeline, "widen", lambda _model, islands, _audit: (set(islands), []))


def test_overflow_is_found_by_the_audit(tmp_path):
    manifest = export_half(loud(1e4), tmp_path)
    assert any(note.startswith("kept in FP32: Relu /trunk/layer4") and "limit 30000" in note for note in manifest.notes)
    assert any("layer4" in name for name in manifest.islands)
    assert manifest.parity["fp16"]["interplace_loss_mean"] < 0.001
    checkpoint = tmp_path / "best.safetensors"
    assert lowest_cosine(describe(tmp_path / "bundle", precision="fp16"), describe(checkpoint)) > 0.9999


# 1e4: the activations overflow; 1e5: the weights do.
@pytest.mark.parametrize(
    "factor, reason",
    [(1e4, "the FP16 graph is refused: .*NaN"), (1e5, "weight .* above 65504")],
    ids=["activations", "weights"],
)
def test_overflow_without_the_audit_is_refused(tmp_path, monkeypatch, factor, reason):
    without_widening(monkeypatch)
    with pytest.raises(ExportError, match=reason):
        export_half(loud(factor), tmp_path)
    assert nothing_left(tmp_path)


def headless(model):
    return default_islands(model) - {node.name for node in model.graph.node if in_head(node)}


def test_head_without_its_island_is_refused(tmp_path, monkeypatch):
    """Maps of a few thousand fit half, the squares of the head's norm do not."""
    without_widening(monkeypatch)
    (tmp_path / "with").mkdir()
    assert export_half(loud(1e3), tmp_path / "with").parity["fp16"]["interplace_loss_mean"] < 0.001
    monkeypatch.setattr(pipeline, "default_islands", headless)
    (tmp_path / "without").mkdir()
    with pytest.raises(ExportError, match=r"the FP16 graph is refused: interplace_loss_mean .* at most 0\.02"):
        export_half(loud(1e3), tmp_path / "without")
    assert nothing_left(tmp_path / "without")


def test_graph_with_other_statistics_is_refused(tmp_path, monkeypatch):
    own = graph_module.Normalise

    def wrong(spec, full_scale):
        return own(spec.model_copy(update={"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}), full_scale)

    monkeypatch.setattr(graph_module, "Normalise", wrong)
    checkpoint = write(tiny_encoder("vit"), tmp_path / "best.safetensors")
    with pytest.raises(ExportError, match=r"the FP32 graph is refused: min_cosine .* at least 0\.99999"):
        export_bundle(str(checkpoint), tmp_path / "bundle", small_probe(), ExportOptions(opset=FAST))
    assert nothing_left(tmp_path)


def test_graph_with_colours_in_the_wrong_order_is_refused(tmp_path, monkeypatch):
    class Wrong(graph_module.PixelPrologue):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.order = torch.tensor([0, 1, 2])

    monkeypatch.setattr(graph_module, "PixelPrologue", Wrong)
    checkpoint = write(tiny_encoder("resnet"), tmp_path / "best.safetensors")
    with pytest.raises(ExportError, match="the FP32 graph is refused: min_cosine"):
        export_bundle(str(checkpoint), tmp_path / "bundle", small_probe(), ExportOptions(opset=FAST))
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    "bias, reason",
    [(1.0, "nearly the same descriptor for every place"), (0.0, "zero or not finite")],
    ids=["constant", "zero"],
)
def test_collapsed_model_is_refused(tmp_path, bias, reason):
    encoder = tiny_encoder("resnet")
    with torch.no_grad():
        linear(encoder).weight.zero_()
        linear(encoder).bias.fill_(bias)
    checkpoint = write(encoder, tmp_path / "best.safetensors")
    with pytest.raises(ExportError, match=reason):
        export_bundle(str(checkpoint), tmp_path / "bundle", small_probe(), ExportOptions(opset=FAST))
    assert nothing_left(tmp_path)


def test_half_that_differs_is_refused(tmp_path, monkeypatch):
    """Whatever the typing does to a graph, the strict computation sees it."""

    def broken(model, islands):
        half = to_half(model, islands)
        for tensor in half.graph.initializer:
            if tensor.data_type == 10 and len(tensor.dims) == 4:
                values = np.frombuffer(tensor.raw_data, np.float16)
                tensor.raw_data = np.roll(values, 1).tobytes()
        return half

    monkeypatch.setattr(pipeline, "to_half", broken)
    with pytest.raises(ExportError, match="the FP16 graph is refused: interplace_loss_mean"):
        export_half(tiny_encoder("resnet"), tmp_path)
    assert nothing_left(tmp_path)


def test_int8_is_measured_beside_fp32(tmp_path):
    """Real 8-bit arithmetic: close to the checkpoint, and not equal."""
    checkpoint = write(tiny_encoder("resnet"), tmp_path / "best.safetensors")
    crops = tuple(
        np.ascontiguousarray(image[top : top + 96, left : left + 128])
        for image in small_probe().images
        for top, left in [(0, 0), (24, 0), (0, 32), (24, 32), (12, 16)]
    )
    options = ExportOptions(int8=True, calibration=crops, opset=FAST, max_batch=1)
    manifest = export_bundle(str(checkpoint), tmp_path / "bundle", small_probe(), options)
    assert set(manifest.graphs) == {"fp32", "int8"}
    assert 1e-5 < manifest.parity["int8"]["interplace_loss_mean"] < 0.15
    assert any(note.startswith("INT8: ") and "120 images" in note for note in manifest.notes)
    assert lowest_cosine(describe(tmp_path / "bundle", precision="int8"), describe(checkpoint)) > 0.98


def test_int8_of_attention_needs_force(tmp_path):
    checkpoint = write(tiny_encoder("vit"), tmp_path / "best.safetensors")
    options = ExportOptions(int8=True, calibration=small_probe().images, opset=FAST, max_batch=1)
    with pytest.raises(ExportError, match="--force"):
        export_bundle(str(checkpoint), tmp_path / "bundle", small_probe(), options)
    assert nothing_left(tmp_path)


def test_what_is_wrong_with_a_stock_model_stays_in_its_bundle(tmp_path, caplog):
    source = open_model(tiny_config("resnet").backbone)
    manifest = export_bundle(source, tmp_path / "bundle", small_probe(), ExportOptions(opset=FAST, max_batch=1))
    assert source.warning in caplog.text and source.warning in manifest.notes


def test_existing_bundle_needs_force(made):
    _, _, checkpoint, bundle, _, _ = made
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    with pytest.raises(ExportError, match=r"exists already.*--force"):
        export_bundle(str(checkpoint), bundle, small_probe(), ExportOptions(opset=FAST))
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_failed_export_leaves_the_old_bundle(tmp_path):
    out = tmp_path / "bundle"
    options = ExportOptions(opset=FAST, max_batch=1, force=True)
    checkpoint = write(tiny_encoder("resnet"), tmp_path / "best.safetensors")
    export_bundle(str(checkpoint), out, small_probe(), options)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    broken = tiny_encoder("resnet")
    with torch.no_grad():
        linear(broken).weight.zero_()
    bad = write(broken, tmp_path / "bad.safetensors")
    with pytest.raises(ExportError):
        export_bundle(str(bad), out, small_probe(), options)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    other = write(tiny_encoder("resnet", seed=3), tmp_path / "other.safetensors")
    export_bundle(str(other), out, small_probe(), options)
    assert json.loads((out / MANIFEST_NAME).read_text())["name"].endswith("other")


def test_fused_resize_of_floats_is_refused(tmp_path):
    checkpoint = write(tiny_encoder("resnet"), tmp_path / "best.safetensors")
    options = ExportOptions(input_kind="float", fuse_resize_px=(120, 160))
    with pytest.raises(ConfigError, match="fused resize"):
        export_bundle(str(checkpoint), tmp_path / "bundle", small_probe(), options)
    assert nothing_left(tmp_path)


def test_missing_checkpoint(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere\.safetensors"):
        export_bundle(str(tmp_path / "nowhere.safetensors"), tmp_path / "bundle", small_probe(), ExportOptions())
    assert not any(tmp_path.iterdir())
