"""From a module to one checked ONNX file whose node names say which part of the model they come from."""

from __future__ import annotations

import ast
import io
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import onnx
import onnxscript.optimizer
import torch
from onnx import TensorProto
from torch import Tensor, nn
from torch.jit._trace import TracerWarning as _TracerWarning

from progeo_edge import atomic
from progeo_export.errors import ExportError

HEAD_SCOPE = "head"
INPUT_NAME = "image"
OUTPUT_NAME = "descriptor"

Opset = Literal[17, 18]

# Protobuf's own limit for one message.
MAX_BYTES = 2**31 - 1
_SCOPES_KEY = "pkg.torch.onnx.name_scopes"
_NO_SCOPE = "graph"


def head_nodes(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes of the head, the final norm included, in a graph that `export_graph` wrote."""
    return {node.name for node in model.graph.node if node.name.startswith(f"/{HEAD_SCOPE}/")}


def export_graph(
    module: nn.Module, example_batch: Tensor, path: Path, opset: Opset = 18, *, dynamic_batch: bool = True
) -> onnx.ModelProto:
    """Write a module as ONNX, with input "image" and output "descriptor"; the weights are inside the file.

    Node names are paths of modules, such as "/trunk/layer1/0/act1/Relu" and "/head/linear/Gemm".

    Args:
        module: Takes and returns one tensor; exported in evaluation mode, and left as it was. Its last part is `head`.
        example_batch: An input to trace with.
        path: File to write, wholly or not at all.
        opset: 18 uses torch's present exporter, 17 (for TensorRT 8.6) the old TorchScript one.
        dynamic_batch: Any batch size, or that of the example alone.

    Returns:
        The model as written.

    Raises:
        ExportError: torch cannot export the module, the graph is invalid, of another opset, or above 2 GB.
    """
    if dynamic_batch and len(example_batch) == 1:
        # torch.export takes a size of 1 for a constant.
        example_batch = torch.cat([example_batch, example_batch])
    with ExitStack() as stack:
        stack.enter_context(_evaluating(module))
        stack.enter_context(_without_fused_attention())
        try:
            if opset == 18:
                model = _export_with_dynamo(module, example_batch, dynamic_batch)
            else:
                model = _export_with_torchscript(module, example_batch, dynamic_batch)
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ExportError(
                f"torch cannot export this model at opset {opset}: {reason}; try --opset {35 - opset}"
            ) from error
    _name_nodes(model)
    _drop_traces(model)
    check_graph(model, opset)
    with atomic.replacing(path) as temporary:
        onnx.save_model(model, temporary)
    return model


def check_graph(model: onnx.ModelProto, opset: int) -> None:
    """Refuse a graph that is not what a bundle promises.

    Args:
        model: As exported.
        opset: That was asked for.

    Raises:
        ExportError: another opset, too large, refused by ONNX's checker or shape inference, an output that is no
            (N, D) float32, or nodes behind the head that are not named as its part.
    """
    found = {entry.domain: entry.version for entry in model.opset_import}
    if found != {"": opset}:
        raise ExportError(f"the exported graph has opsets {found}, asked for was {opset} alone; try another --opset")
    if model.ByteSize() > MAX_BYTES:
        raise ExportError(f"the graph has {model.ByteSize()} bytes, an ONNX file holds {MAX_BYTES}; take a smaller one")
    try:
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is invalid: {str(error).strip().partition(chr(10))[0]}") from error
    output = inferred.graph.output[0].type.tensor_type
    if output.elem_type != TensorProto.FLOAT or len(output.shape.dim) != 2 or not output.shape.dim[1].dim_value:
        raise ExportError("the exported graph's output is no (N, D) float32; the encoder's head is not understood")
    _check_head(model)


def _export_with_dynamo(module: nn.Module, example: Tensor, dynamic_batch: bool) -> onnx.ModelProto:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        opset_version=18,
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_shapes=shapes,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("the exporter returned nothing")
    model: onnx.ModelProto = program.model_proto
    for node in model.graph.node:
        node.name = f"/{_scope_of(node)}/{node.op_type}"
    return model


def _export_with_torchscript(module: nn.Module, example: Tensor, dynamic_batch: bool) -> onnx.ModelProto:
    buffer = io.BytesIO()
    with _quiet_torchscript():
        torch.onnx.export(
            module,
            (example,),
            buffer,  # type: ignore[arg-type]  # this exporter writes to any binary file
            dynamo=False,
            opset_version=17,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_axes={name: {0: "batch"} for name in (INPUT_NAME, OUTPUT_NAME)} if dynamic_batch else None,
        )
    return _optimised(onnx.load_from_string(buffer.getvalue()))


def _optimised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold shape computations, constants and copies: half of what the old exporter writes."""
    scopes = {node.output[0]: node.name.rpartition("/")[0] for node in model.graph.node}
    optimised: onnx.ModelProto = onnxscript.optimizer.optimize(model)
    for node in optimised.graph.node:
        # A node that replaces others keeps the name of their output, but not theirs.
        if not node.name.startswith("/") and scopes.get(node.output[0]):
            node.name = f"{scopes[node.output[0]]}/{node.op_type}"
    return optimised


def _scope_of(node: onnx.NodeProto) -> str:
    """Path of the module that a node of the present exporter was traced in."""
    listed = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES_KEY), "[]")
    # The root, the modules from the outermost to the innermost with their full names, and the operation.
    modules = [name for name in ast.literal_eval(listed)[:-1] if name and not name.startswith("_")]
    return str(modules[-1]).replace(".", "/") if modules else _NO_SCOPE


def _name_nodes(model: onnx.ModelProto) -> None:
    """Name each node by its scope and operator, numbered in the order of the graph where several share both."""
    counts: Counter[str] = Counter()
    for node in model.graph.node:
        scope = node.name.rpartition("/")[0] or f"/{_NO_SCOPE}"
        name = f"{scope}/{node.op_type}"
        counts[name] += 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"


def _drop_traces(model: onnx.ModelProto) -> None:
    """Remove the source lines of this machine that the exporter notes beside each node."""
    graph = model.graph
    for part in [model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output]:
        del part.metadata_props[:]
        part.doc_string = ""


def _check_head(model: onnx.ModelProto) -> None:
    """All that follows a node of the head must be named as the head, since it stays FP32 as a whole."""
    head = head_nodes(model)
    after_head: set[str] = set()
    for node in model.graph.node:
        if node.name in head or after_head.intersection(node.input):
            after_head.update(node.output)
            if node.name not in head:
                raise ExportError(
                    f"node {node.name} follows the head but is not named as its part; try another --opset"
                )
    if model.graph.output[0].name not in after_head:
        raise ExportError("the graph's output does not come from the head; try another --opset")


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; each part gets its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Attention as products and a softmax: ONNX has no operator for torch's fused one."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _quiet_torchscript() -> Iterator[None]:
    """Silence what the old exporter says of itself, and of attention's checks of its inputs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning)
        warnings.filterwarnings(
            "ignore", "Converting a tensor to a Python boolean", _TracerWarning, r"torch\.nn\.functional"
        )
        yield
