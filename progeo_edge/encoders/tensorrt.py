"""Encoder of a bundle through TensorRT: its engine is built on this device once, checked, and kept."""

from __future__ import annotations

import importlib
import logging
import threading
import traceback
import weakref
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, TracebackType

import numpy as np
from numpy.typing import NDArray

from progeo_edge.bundle import Manifest, ModelSpec, Precision, read_manifest
from progeo_edge.encoders.build_progress import ProgressCallback
from progeo_edge.encoders.cuda import Gpu, open_gpu
from progeo_edge.encoders.descriptor_rows import unit_rows
from progeo_edge.encoders.engine_build import BuildOptions, Recipe, build_plan, choose_recipe
from progeo_edge.encoders.engine_cache import EngineCache, EngineKey, timing_name
from progeo_edge.encoders.engine_session import EngineSession, PlanError
from progeo_edge.encoders.golden import GoldenError, read_golden, run_golden
from progeo_edge.encoders.graph_identity import open_checked_graph
from progeo_edge.encoders.known_bad import reasons_against
from progeo_edge.errors import ModelError
from progeo_edge.graph_file import Graph
from progeo_edge.preprocess import to_model_input
from progeo_edge.types import Image

_log = logging.getLogger(__name__)

_PREFERENCE: tuple[Precision, ...] = ("fp16", "fp32", "int8")
"""Half first: on a GPU it is the faster one, and exported bundles have proven it."""

_FALLBACKS: dict[Precision, tuple[Precision, ...]] = {"int8": ("fp16", "fp32"), "fp16": ("fp32",), "fp32": ()}


class TensorRTEncoder:
    """Image -> descriptor by TensorRT. Safe to call from any thread; frees its memory with `close`, or as a context.

    Args:
        path: Bundle folder with golden images.
        precision: Of the engine; None takes FP16 where the bundle has an FP16 graph, else FP32, else INT8.
        build: Build the engine when there is none for this device; False refuses instead, since that takes minutes.
        max_batch: Largest batch of the engine; longer lists are split. None takes the manifest's, or 8.
        workspace_bytes: Scratch memory of the builder; None takes half of the free memory, at most 4 GiB.
        optimization_level: Effort of the builder, 0 to 5; None keeps TensorRT's default.
        allow_fallback: Try the next more exact precision when an engine cannot be built or disagrees with the golden
            images, with a warning. False raises.
        cuda_graph: Record the work of each batch size and replay it. Off until it is measured on the device.
        zero_copy: Let the GPU read the host's memory; only where they share it. Off until it is measured.
        progress: Told how far a build is; an exception that it raises cancels the build.
        gpu_index: Which GPU.

    Raises:
        ModelError: tensorrt or pycuda is missing; the bundle is altered or has no golden images; this TensorRT cannot
            reach the precision; the build fails; the engine disagrees with the golden images.
    """

    def __init__(
        self,
        path: str | Path,
        precision: Precision | None = None,
        build: bool = True,
        *,
        max_batch: int | None = None,
        workspace_bytes: int | None = None,
        optimization_level: int | None = None,
        allow_fallback: bool = False,
        cuda_graph: bool = False,
        zero_copy: bool = False,
        progress: ProgressCallback | None = None,
        gpu_index: int = 0,
    ) -> None:
        folder = Path(path)
        if not folder.is_dir():
            raise ModelError(
                f"model {folder} is no bundle; TensorRT needs one, since its golden images check every engine: make "
                "it with progeo-export, or run the .onnx file with ONNX Runtime"
            )
        self._path = folder
        self._manifest = read_manifest(folder)
        options = BuildOptions(max_batch or self._manifest.max_batch or 8, workspace_bytes, optimization_level)
        _check_options(options)
        workshop = _Workshop(folder, self._manifest, open_gpu(gpu_index), options, zero_copy, cuda_graph, progress)
        wanted = precision or _first_choice(self._manifest)
        tried = (wanted, *_FALLBACKS[wanted]) if allow_fallback else (wanted,)
        session, self._precision, fingerprint = workshop.open_first(tried, build)
        self._max_batch = options.max_batch
        self._session = session
        self._spec = ModelSpec(self._manifest.name, self._manifest.dimension, fingerprint)
        self._lock = threading.Lock()
        self._free = weakref.finalize(self, session.close)

    @property
    def spec(self) -> ModelSpec:
        """Identity of the model; that of the same graph under ONNX Runtime."""
        return self._spec

    @property
    def precision(self) -> Precision:
        """What the engine really computes in, also after a fallback."""
        return self._precision

    def encode(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """N images, (H, W, 3) BGR or (H, W) grey uint8 of any sizes, to (N, D) float32 with unit rows.

        Raises:
            InputError: an image of another shape or type.
            ModelError: TensorRT or CUDA fails, or a descriptor is NaN or zero; the encoder was closed.
        """
        return unit_rows(self.raw_descriptors(images), self._path)

    def raw_descriptors(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """As `encode`, but what the engine gives as it is: neither checked nor scaled, so it may hold NaN."""
        rows = np.empty((len(images), self._manifest.dimension), dtype=np.float32)
        for start in range(0, len(images), self._max_batch):
            chunk = images[start : start + self._max_batch]
            batch = to_model_input(chunk, self._manifest.preprocess)
            with self._lock:
                if not self._session.is_open:
                    raise ModelError(f"encoder of {self._path} was closed; open it again with load_encoder")
                rows[start : start + len(chunk)] = self._session.run(batch)
        return rows

    def close(self) -> None:
        """Free the engine and its memory; `encode` raises afterwards. May be called again."""
        with self._lock:
            self._free()

    def __enter__(self) -> TensorRTEncoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Workshop:
    """What is needed to get a checked engine: from the cache, or built."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        gpu: Gpu,
        options: BuildOptions,
        zero_copy: bool,
        cuda_graph: bool,
        progress: ProgressCallback | None,
    ) -> None:
        self._trt = _import_tensorrt()
        self._folder, self._manifest, self._gpu, self._options = folder, manifest, gpu, options
        self._zero_copy, self._cuda_graph, self._progress = zero_copy, cuda_graph, progress
        self._golden = read_golden(folder, manifest)
        self._cache = EngineCache(folder)
        if zero_copy and not gpu.integrated:
            _log.warning("zero_copy on %s, which has its own memory: every access crosses the bus", gpu.name)

    def open_first(self, precisions: Sequence[Precision], build: bool) -> tuple[EngineSession, Precision, str]:
        """The engine of the first precision that works, and its model's fingerprint.

        A failure is an error unless another precision may be tried.
        """
        for precision, following in zip(precisions, [*precisions[1:], None], strict=True):
            try:
                session, fingerprint = self._open(precision, build)
                return session, precision, fingerprint
            except ModelError as error:
                if following is None:
                    raise
                _log.warning("%s is not used: %s; trying %s, as was allowed", precision, str(error), following)
        raise AssertionError("at least one precision is asked for")

    def _open(self, precision: Precision, build: bool) -> tuple[EngineSession, str]:
        recipe = choose_recipe(self._trt, self._manifest, precision, self._folder)
        checked = open_checked_graph(self._folder, recipe.graph_precision)
        graph = checked.graph
        # Before the engine, which may take minutes: this reads files that may be damaged.
        fingerprint = checked.spec(self._manifest.output_name, self._manifest.dimension).fingerprint
        key = self._key(graph, checked.external, recipe)
        with self._cache.lock(key):
            return self._load_or_build(graph, recipe, key, build), fingerprint

    def _load_or_build(self, graph: Graph, recipe: Recipe, key: EngineKey, build: bool) -> EngineSession:
        plan = self._cache.load(key)
        if plan is None:
            reason = self._cache.why_none(key)
        else:
            try:
                return self._open_checked(plan, recipe.precision)[0]
            except (PlanError, GoldenError) as error:
                reason = str(error)
                self._cache.remove(key, reason)
        if build:
            return self._build(graph, recipe, key)
        raise ModelError(
            f"no usable {recipe.precision} engine of {self._folder} for TensorRT {self._trt.__version__} on "
            f"{self._gpu.name}: {reason}; build it with: progeo-export {self._folder}"
            + ("" if recipe.precision == "fp32" else f" --{recipe.precision}")
        )

    def _key(self, graph: Graph, external: Sequence[str], recipe: Recipe) -> EngineKey:
        return EngineKey(
            {
                "onnx_sha256": graph.sha256,
                "external_sha256": list(external),
                "tensorrt": str(self._trt.__version__),
                "compute_capability": list(self._gpu.compute_capability),
                "device": self._gpu.name,
                "recipe": asdict(recipe),
                "options": asdict(self._options),
            }
        )

    def _build(self, graph: Graph, recipe: Recipe, key: EngineKey) -> EngineSession:
        trt, gpu = self._trt, self._gpu
        for reason in reasons_against(trt.__version__, gpu.compute_capability, recipe.precision):
            _log.warning("%s", reason)
        timing = timing_name(trt.__version__, gpu.compute_capability)
        _log.info("building the %s engine of %s on %s; this takes minutes", recipe.precision, self._folder, gpu.name)
        with gpu.current():
            try:
                plan = build_plan(
                    trt,
                    graph.path,
                    self._manifest,
                    recipe,
                    self._options,
                    free_bytes=gpu.free_memory_bytes(),
                    timing_cache=self._cache.load_timing(timing),
                    progress=self._progress,
                )
            except BaseException as error:
                # The dead frames hold TensorRT's objects, which must go while the context is current.
                traceback.clear_frames(error.__traceback__)
                raise
        _log.info("built in %.0f s, %.1f MB", plan.build_s, len(plan.data) / 1e6)
        session, figures = self._open_checked(plan.data, recipe.precision)
        self._cache.store(key, plan.data, {"golden": figures, "build_s": round(plan.build_s, 1)})
        if plan.timing_cache is not None:
            self._cache.store_timing(timing, plan.timing_cache)
        return session

    def _open_checked(self, plan: bytes, precision: Precision) -> tuple[EngineSession, dict[str, float]]:
        """Load a plan and run the golden images; also on every start, since drivers change under an engine."""
        session = EngineSession(
            self._trt,
            self._gpu,
            plan,
            self._manifest,
            max_batch=self._options.max_batch,
            zero_copy=self._zero_copy,
            cuda_graph=self._cuda_graph,
        )
        try:
            return session, self._run_golden(session, precision)
        except BaseException:
            session.close()
            raise

    def _run_golden(self, session: EngineSession, precision: Precision) -> dict[str, float]:
        def encode(images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
            size = self._options.max_batch
            chunks = [images[start : start + size] for start in range(0, len(images), size)]
            return np.concatenate([session.run(to_model_input(chunk, self._manifest.preprocess)) for chunk in chunks])

        try:
            figures = run_golden(self._golden, self._manifest, precision, encode)
        except GoldenError as error:
            raise GoldenError(
                f"the {precision} engine of {self._folder} by TensorRT {self._trt.__version__} on {self._gpu.name} was "
                f"deleted: {error}"
            ) from None
        _log.info("golden images agree: min cosine %.6f", figures["min_cosine"])
        return figures


def _first_choice(manifest: Manifest) -> Precision:
    return next(item for item in _PREFERENCE if item in manifest.graphs)


def _check_options(options: BuildOptions) -> None:
    if options.max_batch < 1:
        raise ModelError(f"max_batch is {options.max_batch}; expected at least 1")
    if options.optimization_level is not None and not 0 <= options.optimization_level <= 5:
        raise ModelError(f"optimization_level is {options.optimization_level}; expected 0 to 5")
    if options.workspace_bytes is not None and options.workspace_bytes < 1:
        raise ModelError(f"workspace_bytes is {options.workspace_bytes}; expected a positive number")


def _import_tensorrt() -> ModuleType:
    try:
        return importlib.import_module("tensorrt")  # the installed package, not this file
    except (ImportError, OSError) as error:
        raise ModelError(
            f"tensorrt cannot be imported ({error}); it comes with JetPack for the system's Python: make the virtual "
            "environment with --system-site-packages, and do not install it with pip on a Jetson"
        ) from error
