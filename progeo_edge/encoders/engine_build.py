"""From an ONNX graph to a TensorRT plan, on one code path from TensorRT 8.6 to 11.4.

Versions differ in two places here: the flags of the network, and the precision flags, which only 8.x needs. From 10 on
the network is strongly typed and precision comes from the graph alone; 11 knows nothing else.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from progeo_edge.bundle import Manifest, Precision, Preprocess
from progeo_edge.encoders.build_progress import ProgressCallback, reporting
from progeo_edge.encoders.trt_log import LogLines, captured, logger_of
from progeo_edge.errors import ModelError

_log = logging.getLogger(__name__)

_MAX_WORKSPACE_BYTES = 4 << 30
_MIN_WORKSPACE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What a user may choose; part of an engine's key.

    Attributes:
        max_batch: Largest batch of the engine; it is tuned for batch 1.
        workspace_bytes: Scratch memory the builder may use; None takes half of what is free, at most 4 GiB.
        optimization_level: 0 (fast build) to 5 (fast engine); None keeps TensorRT's default, 3.
    """

    max_batch: int = 8
    workspace_bytes: int | None = None
    optimization_level: int | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """How this TensorRT reaches a precision.

    Attributes:
        precision: What the engine computes in.
        graph_precision: Which graph of the bundle it is built from.
        typed: Whether the network is strongly typed, so that the graph alone decides.
        flags: Names of `BuilderFlag` that are set; only where `typed` is False.
        islands: Nodes to keep in FP32; only where flags decide.
    """

    precision: Precision
    graph_precision: Precision
    typed: bool
    flags: tuple[str, ...] = ()
    islands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """A built engine.

    Attributes:
        data: The serialised engine, as trtexec reads it.
        timing_cache: Measurements that make the next build faster; None when TensorRT gave none.
        build_s: Seconds it took.
    """

    data: bytes
    timing_cache: bytes | None
    build_s: float


def choose_recipe(trt: ModuleType, manifest: Manifest, precision: Precision, bundle: Path) -> Recipe:
    """Which graph to build from, and with which flags.

    Raises:
        ModelError: this TensorRT cannot reach the precision from the graphs in the bundle. A graph of another precision
            is never built in silence.
    """
    typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    by_flag = precision == "fp16" and not typed
    graph_precision: Precision = "fp32" if by_flag else precision
    if graph_precision not in manifest.graphs:
        held = ", ".join(sorted(manifest.graphs))
        why = (
            "makes half engines from the FP32 graph"
            if by_flag
            else "takes the precision from the graph, and has no flag that would make another one of it"
        )
        raise ModelError(
            f"{precision} was asked for, but bundle {bundle} holds only the graphs {held}: TensorRT "
            f"{trt.__version__} {why}; export the bundle again with progeo-export"
            + ("" if graph_precision == "fp32" else f" --{graph_precision}")
        )
    if typed:
        return Recipe(precision, graph_precision, typed=True)
    if by_flag and not hasattr(trt.BuilderFlag, "FP16"):
        raise ModelError(
            f"TensorRT {trt.__version__} has neither strongly typed networks nor a flag for half precision; use fp32"
        )
    flags = {"fp32": (), "fp16": ("FP16", "OBEY_PRECISION_CONSTRAINTS"), "int8": ("INT8",)}[precision]
    return Recipe(precision, graph_precision, typed=False, flags=flags, islands=manifest.islands if by_flag else ())


def build_plan(
    trt: ModuleType,
    onnx: Path,
    manifest: Manifest,
    recipe: Recipe,
    options: BuildOptions,
    *,
    free_bytes: int,
    timing_cache: bytes | None = None,
    progress: ProgressCallback | None = None,
) -> Plan:
    """Parse the graph and let TensorRT build it; takes minutes. A CUDA context must be current.

    Args:
        trt: The tensorrt module.
        onnx: Graph of `recipe.graph_precision`, its content already checked.
        manifest: Names and sizes of input and output.
        recipe: Of `choose_recipe`.
        options: Batch and effort.
        free_bytes: Free GPU memory, from which the workspace is taken.
        timing_cache: Of an earlier build by the same TensorRT on the same GPU; a damaged one is ignored.
        progress: Told how far the build is.

    Raises:
        ModelError: TensorRT refuses the graph or fails to build it; the message holds its own log lines.
    """
    begin_s = time.monotonic()
    with captured() as lines:
        builder = _need(_make(trt.Builder, logger_of(trt)), "TensorRT's builder did not start", lines)
        network = _need(builder.create_network(_network_flags(trt)), "no network was made", lines)
        parser = _need(_make(trt.OnnxParser, network, logger_of(trt)), "no ONNX parser was made", lines)
        _parse(parser, onnx, trt, lines)
        _check_network(network, manifest, onnx, lines)
        config = _need(builder.create_builder_config(), "no builder configuration was made", lines)
        _set_precision(trt, config, network, recipe)
        _set_effort(trt, config, options, free_bytes)
        _add_profile(builder, config, network, manifest.preprocess, options.max_batch, lines)
        _use_timing_cache(config, timing_cache)
        with reporting(trt, config, progress):
            memory = builder.build_serialized_network(network, config)
        data = _need(memory, f"TensorRT {trt.__version__} could not build {onnx}", lines, _build_remedy(recipe))
        return Plan(bytes(data), _read_timing_cache(config), time.monotonic() - begin_s)


def _network_flags(trt: ModuleType) -> int:
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)


def _parse(parser: Any, onnx: Path, trt: ModuleType, lines: LogLines) -> None:  # noqa: ANN401
    if parser.parse_from_file(str(onnx)):
        return
    errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
    raise lines.fail(
        f"TensorRT {trt.__version__} does not accept {onnx}: {'; '.join(errors) or 'the parser gave no reason'}",
        "export the bundle with --opset 17 for TensorRT 8, and 18 from 10 on",
    )


def _check_network(network: Any, manifest: Manifest, onnx: Path, lines: LogLines) -> None:  # noqa: ANN401
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    outputs = [network.get_output(index).name for index in range(network.num_outputs)]
    if inputs != [manifest.input_name] or manifest.output_name not in outputs:
        raise lines.fail(
            f"graph {onnx} has inputs {inputs} and outputs {outputs}; the manifest says input "
            f"{manifest.input_name!r} and output {manifest.output_name!r}"
        )
    batch = network.get_input(0).shape[0]
    if batch != -1:
        raise ModelError(f"graph {onnx} has the fixed batch {batch}; export it with a dynamic batch for TensorRT")


def _set_precision(trt: ModuleType, config: Any, network: Any, recipe: Recipe) -> None:  # noqa: ANN401
    # TF32 has half's mantissa: an FP32 engine is the one that others are compared with.
    config.clear_flag(trt.BuilderFlag.TF32)
    if recipe.typed:
        return
    for name in recipe.flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if recipe.precision == "fp16":
        _keep_islands(trt, network, recipe.islands)


def _keep_islands(trt: ModuleType, network: Any, islands: Sequence[str]) -> None:  # noqa: ANN401
    """Hold the layers of the named nodes in FP32. One node may become several layers: "name", "name_1", ..."""
    left = set(islands)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        node = layer.name if layer.name in islands else re.sub(r"_\d+$", "", layer.name)
        if node in islands:
            left.discard(node)
            _hold_in_fp32(trt, layer)
    if islands and len(left) == len(set(islands)):
        raise ModelError(
            f"none of the {len(islands)} nodes that must stay in FP32 is in TensorRT's network; build fp32, or export "
            "the bundle again"
        )
    if left or not islands:
        missing = f"{len(left)} of the {len(islands)} nodes are not in the network" if islands else "none is named"
        _log.warning("of the nodes that should stay in FP32, %s; the golden images decide", missing)


def _hold_in_fp32(trt: ModuleType, layer: Any) -> None:  # noqa: ANN401
    floats = (trt.DataType.FLOAT, trt.DataType.HALF)
    outputs = [index for index in range(layer.num_outputs) if layer.get_output(index).dtype in floats]
    if not outputs:
        return  # shapes and indices have no precision to choose
    layer.precision = trt.DataType.FLOAT
    for index in outputs:
        layer.set_output_type(index, trt.DataType.FLOAT)


def _set_effort(trt: ModuleType, config: Any, options: BuildOptions, free_bytes: int) -> None:  # noqa: ANN401
    workspace = options.workspace_bytes
    if workspace is None:
        workspace = max(min(free_bytes // 2, _MAX_WORKSPACE_BYTES), _MIN_WORKSPACE_BYTES)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level


def _add_profile(
    builder: Any,  # noqa: ANN401
    config: Any,  # noqa: ANN401
    network: Any,  # noqa: ANN401
    spec: Preprocess,
    max_batch: int,
    lines: LogLines,
) -> None:
    image = (spec.height_px, spec.width_px, 3) if spec.layout == "nhwc" else (3, spec.height_px, spec.width_px)
    refused = f"TensorRT does not accept batches of 1 to {max_batch} images of shape {image}"
    profile = _need(builder.create_optimization_profile(), "no optimization profile was made", lines)
    try:
        profile.set_shape(network.get_input(0).name, (1, *image), (1, *image), (max_batch, *image))
    except ValueError as error:
        raise lines.fail(f"{refused}: {error}") from None
    if config.add_optimization_profile(profile) < 0:
        raise lines.fail(refused)


def _use_timing_cache(config: Any, saved: bytes | None) -> None:  # noqa: ANN401
    """A cache that TensorRT refuses costs time, never the build."""
    if saved is not None:
        try:
            cache = config.create_timing_cache(saved)
            if cache is not None and config.set_timing_cache(cache, False):
                return
        except (TypeError, ValueError, RuntimeError) as error:
            _log.debug("timing cache: %s", error)
        _log.warning("the saved timing cache is damaged or of another TensorRT; it is ignored, the build takes longer")
    empty = config.create_timing_cache(b"")
    if empty is None or not config.set_timing_cache(empty, False):
        _log.warning("TensorRT gives no timing cache; later builds will take as long as this one")


def _read_timing_cache(config: Any) -> bytes | None:  # noqa: ANN401
    cache = config.get_timing_cache()
    data = cache.serialize() if cache is not None else None
    return bytes(data) if data is not None else None


def _build_remedy(recipe: Recipe) -> str:
    remedy = "free memory on the device (close other programs, lower max_batch) and try again"
    return remedy if recipe.precision == "fp32" else f"{remedy}, or build fp32"


def _make(kind: Any, *arguments: Any) -> Any:  # noqa: ANN401
    """Construct an object of TensorRT; where its library gives a null pointer, the binding raises TypeError."""
    try:
        return kind(*arguments)
    except TypeError as error:
        _log.debug("%s: %s", kind, error)
        return None


def _need(value: Any, what: str, lines: LogLines, remedy: str = "") -> Any:  # noqa: ANN401
    if value is None:
        raise lines.fail(what, remedy)
    return cast(Any, value)
