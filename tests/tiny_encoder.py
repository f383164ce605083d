"""A tiny image encoder made with onnx.helper, and bundles of it, whole and deliberately broken.

The graph takes uint8 NHWC BGR (or float32 NCHW RGB) of any height and width: convolution, a 6 x 8 grid, centring per
channel, a random projection and L2 norm. So like images have like descriptors, and unrelated ones have a cosine near 0.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from progeo_edge.bundle import MANIFEST_NAME, Manifest, Precision, Preprocess, write_manifest
from progeo_edge.graph_file import file_sha256

WIDTH_PX, HEIGHT_PX, DIMENSION = 64, 48, 32
GRAPH_NAMES: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
TINY_PREPROCESS = Preprocess(
    width_px=WIDTH_PX, height_px=HEIGHT_PX, color="bgr", layout="nhwc", dtype="uint8", mean=None, std=None
)
FOREIGN_PREPROCESS = Preprocess(
    width_px=WIDTH_PX,
    height_px=HEIGHT_PX,
    color="rgb",
    layout="nchw",
    dtype="float32",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
_CHANNELS, _GRID = 8, (6, 8)


def tiny_graph(
    *,
    dimension: int = DIMENSION,
    seed: int = 0,
    batch: int | str = "batch",
    dtype: str = "uint8",
    half: bool = False,
    gain: float = 1.0,
    extra_output: bool = False,
    pooling: Literal["resize", "average"] = "resize",
) -> onnx.ModelProto:
    """The encoder's graph: dtype "uint8" is NHWC BGR normalised inside, "float32" is NCHW RGB normalised outside.

    `half` computes the convolution in float16; `gain` scales its weights (0 gives a zero descriptor, 1e30 overflows).
    `pooling` makes the grid: "resize" antialiased, of any size, "average" of images of the tiny size alone.
    """
    rng = np.random.default_rng(seed)
    kind = np.float16 if half else np.float32
    features = _CHANNELS * _GRID[0] * _GRID[1]
    with np.errstate(over="ignore"):
        filters = (gain * rng.normal(0, 0.3, (_CHANNELS, 3, 5, 5))).astype(kind)
    if dtype == "float32":
        filters = filters[:, ::-1]
    weights: dict[str, np.ndarray[Any, Any]] = {
        "mean": np.array([0.406, 0.456, 0.485], np.float32).reshape(1, 3, 1, 1) * 255,
        "std": np.array([0.225, 0.224, 0.229], np.float32).reshape(1, 3, 1, 1) * 255,
        "filters": np.ascontiguousarray(filters),
        "bias": np.zeros(_CHANNELS, kind),
        "projection": rng.normal(0, 1 / np.sqrt(features), (features, dimension)).astype(np.float32),
        "grid": np.array([_CHANNELS, *_GRID], np.int64),
        "flat": np.array([-1, features], np.int64),
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "tiny": np.array(1e-12, np.float32),
        "feature_axis": np.array([1], np.int64),
        "grid_axes": np.array([2, 3], np.int64),
    }
    inner = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    node = helper.make_node
    nodes = [
        *_input_nodes(dtype),
        node("Cast", ["normalised"], ["conv_in"], to=inner),
        node("Conv", ["conv_in", "filters", "bias"], ["conv"], strides=[2, 2], pads=[2, 2, 2, 2]),
        node("Relu", ["conv"], ["relu"]),
        node("Cast", ["relu"], ["head_in"], to=TensorProto.FLOAT),
        *_pooling_nodes(pooling),
        node("ReduceMean", ["pooled", "grid_axes"], ["level"]),
        node("Sub", ["pooled", "level"], ["centred"]),
        node("Reshape", ["centred", "flat"], ["vector"]),
        node("MatMul", ["vector", "projection"], ["projected"]),
        node("ReduceL2", ["projected", "feature_axis"], ["norm"]),
        node("Max", ["norm", "tiny"], ["safe_norm"]),
        node("Div", ["projected", "safe_norm"], ["descriptor"]),
    ]
    used = {name for item in nodes for name in item.input}
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items() if name in used]
    uint8 = dtype == "uint8"
    shape = [batch, "height", "width", 3] if uint8 else [batch, 3, "height", "width"]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8 if uint8 else TensorProto.FLOAT, shape)
    outputs = [helper.make_tensor_value_info("descriptor", TensorProto.FLOAT, [batch, dimension])]
    if extra_output:
        outputs.append(helper.make_tensor_value_info("projected", TensorProto.FLOAT, [batch, dimension]))
    graph = helper.make_graph(nodes, "tiny", [image], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def _pooling_nodes(pooling: str) -> list[Any]:
    node = helper.make_node
    if pooling == "average":
        return [node("AveragePool", ["head_in"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4])]
    return [
        node("Shape", ["head_in"], ["shape"]),
        node("Slice", ["shape", "zero", "one"], ["count"]),
        node("Concat", ["count", "grid"], ["grid_shape"], axis=0),
        node("Resize", ["head_in", "", "", "grid_shape"], ["pooled"], mode="linear", antialias=1),
    ]


def _input_nodes(dtype: str) -> list[Any]:
    node = helper.make_node
    if dtype == "float32":
        return [node("Identity", ["image"], ["normalised"])]
    return [
        node("Cast", ["image"], ["values"], to=TensorProto.FLOAT),
        node("Transpose", ["values"], ["planes"], perm=[0, 3, 1, 2]),
        node("Sub", ["planes", "mean"], ["shifted"]),
        node("Div", ["shifted", "std"], ["normalised"]),
    ]


def write_tiny_bundle(
    folder: Path,
    *,
    precisions: tuple[Precision, ...] = ("fp32",),
    external_data: bool = False,
    preprocess: Preprocess = TINY_PREPROCESS,
    **graph_options: Any,
) -> Path:
    """Write a complete bundle (graphs, golden.npz, manifest.json) and return `folder`.

    With `external_data` the FP32 graph keeps its large tensors in `weights.bin`.
    """
    folder.mkdir(parents=True)
    for precision in precisions:
        model = tiny_graph(half=precision == "fp16", **graph_options)
        _save(model, folder / GRAPH_NAMES[precision], external_data and precision == "fp32")
    golden = np.random.default_rng(1).integers(0, 256, (2, HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8)
    np.savez(folder / "golden.npz", images=golden)
    manifest = Manifest(
        schema_version=1,
        name="tiny",
        architecture="tiny-conv",
        dimension=graph_options.get("dimension", DIMENSION),
        preprocess=preprocess,
        preprocess_hash=preprocess.hash,
        graphs={precision: GRAPH_NAMES[precision] for precision in precisions},
        files={path.name: file_sha256(path) for path in sorted(folder.iterdir())},
        input_name="image",
        output_name="descriptor",
        opset=18,
        golden="golden.npz",
        tolerances={"fp32": {"min_cosine": 0.99999}},
        parity={"fp32": {"min_cosine": 1.0}},
        tool_versions={"onnx": str(onnx.__version__)},
        checkpoint_sha256=hashlib.sha256(repr(sorted(graph_options.items())).encode()).hexdigest(),
    )
    write_manifest(manifest, folder)
    return folder


def write_tiny_foreign(folder: Path, *, description: dict[str, Any] | None = None, **graph_options: Any) -> Path:
    """Write `model.onnx` (float32 NCHW RGB) beside `model.yaml` and return the .onnx.

    `description` entries replace those of the YAML; None drops one.
    """
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    onnx.save(tiny_graph(**{"dtype": "float32", **graph_options}), path)
    values = {"name": "tiny-foreign", "preprocess": FOREIGN_PREPROCESS.model_dump(mode="json"), **(description or {})}
    kept = {key: value for key, value in values.items() if value is not None}
    path.with_suffix(".yaml").write_text(yaml.safe_dump(kept), encoding="utf-8")
    return path


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest's plain values in place, without any check."""
    path = folder / MANIFEST_NAME
    values = json.loads(path.read_text(encoding="utf-8"))
    edit(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def replace_graph(folder: Path, model: onnx.ModelProto | bytes) -> None:
    """Put another FP32 graph into a bundle and state its hash, so that only its content is wrong."""
    path = folder / GRAPH_NAMES["fp32"]
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    edit_manifest(folder, lambda values: values["files"].update({path.name: file_sha256(path)}))


def _save(model: onnx.ModelProto, path: Path, external: bool) -> None:
    if external:
        onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=256)
    else:
        onnx.save(model, path)


def _link_out(folder: Path) -> None:
    outside = folder.with_name(folder.name + "-outside.onnx")
    shutil.move(folder / "model.onnx", outside)
    (folder / "model.onnx").symlink_to(outside)


def _folder_for_graph(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()


def _not_a_graph(folder: Path) -> None:
    replace_graph(folder, b"no graph at all")


def _name_path(name: str) -> Callable[[Path], None]:
    def rename(values: dict[str, Any]) -> None:
        values["files"][name] = values["files"]["model.onnx"]
        values["graphs"]["fp32"] = name

    return lambda folder: edit_manifest(folder, rename)


def _set(**fields: Any) -> Callable[[Path], None]:
    return lambda folder: edit_manifest(folder, lambda values: values.update(fields))


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda folder: (folder / MANIFEST_NAME).unlink(), "has no manifest.json"),
    "no json": (lambda folder: (folder / MANIFEST_NAME).write_text("{"), "cannot be read as JSON"),
    "a list": (lambda folder: (folder / MANIFEST_NAME).write_text("[]"), "file as a whole"),
    "newer schema": (_set(schema_version=99), "schema 99.*upgrade progeo-edge"),
    "schema zero": (_set(schema_version=0), "schema_version"),
    "unknown key": (_set(dimensoin=32), "'dimensoin' is unknown; did you mean 'dimension'"),
    "dimension zero": (_set(dimension=0), "dimension = 0"),
    "dimension text": (_set(dimension="32"), "dimension = '32'"),
    "other dimension": (_set(dimension=33), "has dimension 32, but its description says 33"),
    "edited preprocess": (
        lambda folder: edit_manifest(folder, lambda values: values["preprocess"].update(width_px=65)),
        "preprocess_hash",
    ),
    "path up": (_name_path("../model.onnx"), "relative path inside"),
    "path up in the middle": (_name_path("a/../../model.onnx"), "relative path inside"),
    "path absolute": (_name_path("/model.onnx"), "relative path inside"),
    "path with a drive": (_name_path("C:model.onnx"), "relative path inside"),
    "path with another system's separator": (_name_path("..\\model.onnx"), "relative path inside"),
    "path with a null": (_name_path("model.onnx\0"), "relative path inside"),
    "path of an engine": (_name_path("./engines/model.onnx"), "a bundle cannot bring any"),
    "path of nothing": (_name_path(""), "relative path inside"),
    "path of the bundle itself": (_name_path("."), "relative path inside"),
    "unlisted graph": (_set(graphs={"fp32": "other.onnx"}), "has no sha256"),
    "no graphs": (_set(graphs={}), "graphs"),
    "link out of the bundle": (_link_out, "leaves the folder"),
    "missing graph": (lambda folder: (folder / "model.onnx").unlink(), "is missing"),
    "folder for a graph": (_folder_for_graph, "is no file"),
    "altered graph": (
        lambda folder: (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-1] + b"\0"),
        r"model\.onnx was altered or damaged: its sha256 is [0-9a-f]{64}, expected [0-9a-f]{64}",
    ),
    "wrong input name": (_set(input_name="picture"), "no input 'picture'; it has image"),
    "wrong output name": (_set(output_name="vector"), "no output 'vector'; it has descriptor"),
    "graph of another type": (
        lambda folder: replace_graph(folder, tiny_graph(dtype="float32")),
        r"takes float32, but its description says uint8",
    ),
    "not a graph": (_not_a_graph, "no readable ONNX file|cannot be loaded"),
}
"""Name -> (what it does to a bundle folder, regular expression of the ModelError that must follow)."""
