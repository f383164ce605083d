"""The exported files: parity at several batch sizes, the opset asked for, names, and nothing left behind."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from progeo_edge.preprocess import to_model_input
from progeo_export import onnx_export
from progeo_export.checkpoint_input import open_model
from progeo_export.errors import ExportError
from progeo_export.fp32_parity import reference_descriptors
from progeo_export.graph_module import DescriptorGraph
from progeo_export.onnx_export import check_graph, export_graph, head_nodes
from tests.export.test_graph_module import pictures
from tests.train.tiny_models import tiny_encoder

torch.set_num_threads(1)

MAP_HEAD = ["Mul", "ReduceSum", "Sqrt", "Clip", "Div", "Clip", "Pow", "ReduceMean", "Pow", "Gemm"]
NORM = ["Mul", "ReduceSum", "Sqrt", "Clip", "Div"]


def make_encoder(kind):
    return open_model("MobileCLIP2-S0", (64, 64)).encoder if kind == "mobileclip" else tiny_encoder(kind)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Encoder, graph module, file and model of each kind and opset, made once."""
    made = {}

    def get(kind, opset):
        if (kind, opset) not in made:
            module = DescriptorGraph(make_encoder(kind))
            path = tmp_path_factory.mktemp("graphs") / f"{kind}{opset}.onnx"
            made[kind, opset] = (module, path, export_graph(module, module.example(), path, opset))
        return made[kind, opset]

    return get


def run(path, pixels):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(["descriptor"], {"image": pixels})[0]


EVERY = [(kind, opset) for kind in ("resnet", "vit", "mobileclip") for opset in (18, 17)]


@pytest.mark.parametrize("kind, opset", EVERY)
def test_one_graph_agrees_at_every_batch_size(exported, kind, opset):
    module, path, _ = exported(kind, opset)
    images = pictures(5)
    expected = reference_descriptors(module.encoder, images)
    for batch in (1, 2, 5):
        found = run(path, to_model_input(images[:batch], module.preprocess))
        assert found.shape == expected[:batch].shape and found.dtype == np.float32
        np.testing.assert_allclose(found, expected[:batch], atol=1e-5)
    assert np.abs(expected - expected[::-1]).max() > 0.01


@pytest.mark.parametrize("kind, opset", EVERY)
def test_file_is_whole_and_says_nothing_of_this_machine(exported, kind, opset):
    _, path, _ = exported(kind, opset)
    model = onnx.load(path, load_external_data=False)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert not [weight.name for weight in model.graph.initializer if weight.external_data]
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["descriptor"]
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    content = path.read_bytes()
    assert b".py" not in content and b"site-packages" not in content
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("kind, opset", EVERY)
def test_head_is_known_by_its_names(exported, kind, opset):
    _, _, model = exported(kind, opset)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    head = [node for node in model.graph.node if node.name in head_nodes(model)]
    operators = [node.op_type for node in head if node.op_type != "Constant"]
    assert operators == ([*MAP_HEAD, *NORM] if kind == "resnet" else NORM)
    assert all(name.startswith("/head/norm/") for name in [node.name for node in head][-5:])
    assert {name.split("/")[1] for name in names} <= {"prologue", "trunk", "head", "graph"}
    assert sum(name.startswith("/graph/") for name in names) <= 0.05 * len(names)


@pytest.mark.parametrize("opset", [17, 18])
def test_graphs_keep_whole_operators(exported, opset):
    operators = [node.op_type for node in exported("vit", opset)[2].graph.node]
    assert operators.count("LayerNormalization") == 6 and operators.count("Softmax") == 2
    operators = [node.op_type for node in exported("resnet", opset)[2].graph.node]
    assert not {"Shape", "Expand", "BatchNormalization", "Identity", "Constant"} & set(operators)


@pytest.mark.parametrize("opset", [17, 18])
def test_exponent_is_a_constant_of_the_file(exported, opset):
    module, _, model = exported("resnet", opset)
    constants = {weight.name: onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer}
    exponents = [float(constants[node.input[1]]) for node in model.graph.node if node.op_type == "Pow"]
    assert exponents == pytest.approx([module.head.p, 1 / module.head.p])


@pytest.mark.parametrize("opset", [17, 18])
def test_encoder_is_left_as_it_was(tmp_path, opset):
    encoder = tiny_encoder("vit").train()
    encoder.get_submodule("trunk.transformer").eval()
    encoder.get_parameter("trunk.conv1.weight").requires_grad_(False)
    modes = [part.training for part in encoder.modules()]
    gradients = [parameter.requires_grad for parameter in encoder.parameters()]
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    torch.backends.mha.set_fastpath_enabled(True)
    module = DescriptorGraph(encoder)
    export_graph(module, module.example(), tmp_path / "model.onnx", opset)
    assert torch.backends.mha.get_fastpath_enabled()
    assert [part.training for part in encoder.modules()] == modes
    assert [parameter.requires_grad for parameter in encoder.parameters()] == gradients
    assert all(torch.equal(tensor, encoder.state_dict()[name]) for name, tensor in before.items())


def test_attention_is_written_out_also_without_gradients(tmp_path):
    """Without gradients torch's fused attention would be traced, which ONNX does not have."""
    module = DescriptorGraph(tiny_encoder("vit").requires_grad_(False))
    model = export_graph(module, module.example(), tmp_path / "model.onnx", 17)
    assert [node.op_type for node in model.graph.node].count("Softmax") == 2


@pytest.mark.parametrize("opset", [17, 18])
def test_float_input_and_fixed_batch(tmp_path, opset):
    module = DescriptorGraph(tiny_encoder("resnet"), input_kind="float")
    path = tmp_path / "model.onnx"
    model = export_graph(module, module.example(3), path, opset, dynamic_batch=False)
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == [3, 3, 64, 64]
    found = run(path, to_model_input(pictures(3), module.preprocess))
    np.testing.assert_allclose(found, reference_descriptors(module.encoder, pictures(3)), atol=1e-5)


@pytest.mark.parametrize("opset", [17, 18])
def test_fused_resize_is_exported(tmp_path, opset):
    module = DescriptorGraph(tiny_encoder("resnet"), fuse_resize_px=(48, 200))
    path = tmp_path / "model.onnx"
    model = export_graph(module, module.example(1), path, opset)
    prologue = [node.op_type for node in model.graph.node if node.name.startswith("/prologue/")]
    assert prologue.count("MatMul") == 2 and "Clip" in prologue and "Resize" not in prologue
    images = pictures(3, (48, 200))
    found = run(path, to_model_input(images, module.preprocess))
    np.testing.assert_allclose(found, reference_descriptors(module.encoder, images), atol=1e-3)


def test_another_opset_than_asked_for_is_an_error(exported):
    model = exported("resnet", 18)[2]
    with pytest.raises(ExportError, match="asked for was 17"):
        check_graph(model, 17)


def test_an_opset_raised_by_the_exporter_is_an_error(tmp_path, monkeypatch):
    module = DescriptorGraph(tiny_encoder("resnet"))
    monkeypatch.setattr(onnx_export, "_export_with_torchscript", onnx_export._export_with_dynamo)
    with pytest.raises(ExportError, match=r"opsets .*18.* asked for was 17"):
        export_graph(module, module.example(), tmp_path / "model.onnx", 17)
    assert not list(tmp_path.iterdir())


def test_a_head_that_lost_its_name_is_an_error(exported):
    model = onnx.ModelProto.FromString(exported("resnet", 18)[2].SerializeToString())
    model.graph.node[-1].name = "/trunk/Div"
    with pytest.raises(ExportError, match="follows the head"):
        check_graph(model, 18)
    for node in model.graph.node:
        node.name = node.name.replace("/head/", "/other/")
    with pytest.raises(ExportError, match="does not come from the head"):
        check_graph(model, 18)


def test_an_invalid_graph_is_an_error(exported):
    model = onnx.ModelProto.FromString(exported("resnet", 18)[2].SerializeToString())
    model.graph.node.append(helper.make_node("Relu", ["nowhere"], ["unused"], name="/head/Relu"))
    with pytest.raises(ExportError, match="invalid"):
        check_graph(model, 18)


def test_too_large_a_graph_is_an_error(exported, monkeypatch):
    monkeypatch.setattr(onnx_export, "MAX_BYTES", 1000)
    with pytest.raises(ExportError, match="an ONNX file holds 1000"):
        check_graph(exported("resnet", 18)[2], 18)


@pytest.mark.parametrize("opset", [17, 18])
def test_what_torch_cannot_export_is_one_line(tmp_path, opset):
    class Unexportable(torch.nn.Module):
        def forward(self, image):
            return torch.linalg.eigvals(image.float().mean(dim=3)).real

    with pytest.raises(ExportError, match="cannot export this model") as caught:
        export_graph(Unexportable(), torch.zeros(2, 8, 8, 3), tmp_path / "model.onnx", opset)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
