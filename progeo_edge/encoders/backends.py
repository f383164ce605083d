"""Which backend runs a model: TensorRT where its engine is ready, OpenVINO where it is faster, else ONNX Runtime."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import logging
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from progeo_edge.bundle import MANIFEST_NAME, Manifest, Precision, read_manifest
from progeo_edge.errors import ModelError
from progeo_edge.graph_file import PRECISION_PREFERENCE

if TYPE_CHECKING:
    from progeo_edge.encoders import Encoder
    from progeo_edge.encoders.onnx import OnnxEncoder
    from progeo_edge.encoders.openvino import OpenVinoEncoder
    from progeo_edge.encoders.tensorrt import TensorRTEncoder

_log = logging.getLogger(__name__)

Backend = Literal["auto", "tensorrt", "openvino", "onnx"]

_X86 = ("x86_64", "amd64")

_ENGINE_PREFERENCE: tuple[Precision, ...] = ("fp16", "fp32")
"""Both are one model to maps. INT8 is another one, so it is not taken where the bundle has one of them."""


def check_choice(backend: str, precision: str | None) -> None:
    """Refuse a backend or a precision that does not exist.

    Raises:
        ModelError: it names the known ones, and the nearest.
    """
    _check_name("backend", backend, get_args(Backend))
    if precision is not None:
        _check_name("precision", precision, get_args(Precision))


def open_model(
    path: Path,
    backend: Backend = "auto",
    precision: Precision | None = None,
    *,
    threads: int = 0,
    spin: bool = False,
) -> OnnxEncoder | OpenVinoEncoder | TensorRTEncoder:
    """Open a bundle or a foreign model by a backend.

    Args:
        path: Bundle folder, or an .onnx file beside its .yaml.
        backend: As in `load_encoder`.
        precision: As in `load_encoder`.
        threads: As in `load_encoder`.
        spin: As in `load_encoder`.

    Raises:
        ModelError: as `load_encoder`.
    """
    if backend == "tensorrt":
        return _open_tensorrt(path, precision, build=True)
    if backend == "auto":
        encoder, reason = _open_ready_engine(path, precision)
        if encoder is not None:
            return encoder
        _log.info("TensorRT is not used: %s", reason)
    if backend == "openvino":
        return _open_openvino(path, precision, threads)
    if backend == "auto":
        checked, reason = _open_checked_openvino(path, precision, threads)
        if checked is not None:
            return checked
        _log.info("OpenVINO is not used: %s", reason)
    from progeo_edge.encoders.onnx import OnnxEncoder

    return OnnxEncoder(path, precision=precision, threads=threads, spin=spin)


def active_backend(encoder: Encoder) -> str:
    """What computes descriptors now, for people: "ONNX Runtime 1.20.1, CPUExecutionProvider, fp32"."""
    from progeo_edge.encoders.onnx import OnnxEncoder
    from progeo_edge.encoders.openvino import OpenVinoEncoder
    from progeo_edge.encoders.tensorrt import TensorRTEncoder

    if isinstance(encoder, OpenVinoEncoder):
        version = importlib.import_module("openvino").__version__.partition("-")[0]
        return ", ".join([f"OpenVINO {version}", *([encoder.precision] if encoder.precision else []), encoder.says])
    if isinstance(encoder, TensorRTEncoder):
        from progeo_edge.encoders.cuda import open_gpu

        version = importlib.import_module("tensorrt").__version__
        return f"TensorRT {version}, {open_gpu().name}, {encoder.precision}"
    if isinstance(encoder, OnnxEncoder):
        version = importlib.import_module("onnxruntime").__version__
        provider = encoder.providers[0] if encoder.providers else "closed"
        return ", ".join([f"ONNX Runtime {version}", provider, *([encoder.precision] if encoder.precision else [])])
    return type(encoder).__name__


def _open_ready_engine(path: Path, precision: Precision | None) -> tuple[TensorRTEncoder | None, str]:
    """The encoder of an engine that was built and checked before, or None and the reason."""
    if not (path / MANIFEST_NAME).is_file():
        return None, f"{path} is no bundle, and engines are checked with the golden images of one"
    manifest = read_manifest(path)
    try:
        importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        return None, f"it is not installed here ({error})"
    reasons = []
    for candidate in [precision] if precision is not None else _engine_precisions(manifest):
        try:
            encoder = _open_tensorrt(path, candidate, build=False)
        except ModelError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            _log.info("a better engine is not used: %s", reason)
        return encoder, ""
    return None, reasons[0]


def _open_checked_openvino(path: Path, precision: Precision | None, threads: int) -> tuple[OpenVinoEncoder | None, str]:
    """An encoder that was compared with the bundle's golden images, or None and the reason."""
    if platform.machine().lower() not in _X86:
        return None, f"on {platform.machine()} ONNX Runtime is taken unless OpenVINO is named"
    if importlib.util.find_spec("openvino") is None:
        return None, "it is not installed here"
    if not (path / MANIFEST_NAME).is_file():
        return None, f"{path} is no bundle, and what it computes is checked with the golden images of one"
    manifest = read_manifest(path)
    if (precision or next(item for item in PRECISION_PREFERENCE if item in manifest.graphs)) == "fp32":
        return None, "ONNX Runtime is as fast in FP32 and starts sooner"
    if manifest.golden is None:
        return None, f"{path} has no golden images to check it with"
    if _onnx_runtime_has_cuda():
        return None, "ONNX Runtime has a GPU here"
    try:
        return _open_openvino(path, precision, threads), ""
    except ModelError as error:
        return None, str(error)


def _onnx_runtime_has_cuda() -> bool:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        return False
    return "CUDAExecutionProvider" in runtime.get_available_providers()


def _open_openvino(path: Path, precision: Precision | None, threads: int) -> OpenVinoEncoder:
    from progeo_edge.encoders.openvino import OpenVinoEncoder

    return OpenVinoEncoder(path, precision=precision, threads=threads)


def _engine_precisions(manifest: Manifest) -> list[Precision]:
    return [item for item in _ENGINE_PREFERENCE if item in manifest.graphs] or list(manifest.graphs)


def _open_tensorrt(path: Path, precision: Precision | None, *, build: bool) -> TensorRTEncoder:
    from progeo_edge.encoders.tensorrt import TensorRTEncoder

    encoder = TensorRTEncoder(path, precision, build)
    _log.info("%s runs %s", active_backend(encoder), path)
    return encoder


def _check_name(what: str, name: object, known: tuple[str, ...]) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ModelError(f"{what} {name!r} is unknown; {hint}it is one of {', '.join(known)}")
