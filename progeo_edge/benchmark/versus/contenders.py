"""Who takes part where frames become descriptors: ours, ONNX Runtime, and what installed packages offer."""

from __future__ import annotations

from importlib.metadata import entry_points

from progeo_edge.benchmark.versus.interleaving import Contender
from progeo_edge.benchmark.versus.job import Job

ENTRY_POINTS = "progeo_edge.benchmark_peers"
"""Group of entry points by which an installed package offers peers for frames: name to "module:Class"."""

TORCH_EAGER, TORCH_COMPILE = "torch-eager", "torch-compile"
ORT_DEFAULT = "ORT default"
PIL, CV2 = "PIL", "cv2"
"""How contenders for the preprocessing begin."""

_PEERS = "progeo_edge.benchmark.peers"
_OURS = f"{_PEERS}.ours:OurPeer"
_ONNX = f"{_PEERS}.onnx_default:OnnxDefaultPeer"
_RESIZING = f"{_PEERS}.resizing:ResizingPeer"
_NO_GRAPH = "the built-in encoder has no graph that another runtime could run"


def ours(job: Job, **settings: object) -> list[Contender]:
    """Each backend and precision asked for."""
    common = job.peer_settings(**settings)
    if job.model == "vlad":
        return [Contender("ours vlad", _OURS, common, is_ours=True)]
    if job.manifest is None:
        return [
            Contender(f"ours {backend}", _OURS, {**common, "backend": backend}, is_ours=True)
            for backend in job.backends
        ]
    return [
        Contender(
            f"ours {precision} {backend}",
            _OURS,
            {**common, "backend": backend, "precision": precision},
            is_ours=True,
        )
        for backend in job.backends
        for precision in job.precisions
    ]


def onnx_defaults(job: Job, **settings: object) -> tuple[list[Contender], dict[str, str]]:
    """ONNX Runtime with default options, after Pillow and after OpenCV; or why not."""
    if job.model == "vlad":
        return [], {ORT_DEFAULT: _NO_GRAPH}
    precision = None if job.manifest is None else "fp32"
    common = job.peer_settings(precision=precision, **settings)
    names = {"pil": f"{ORT_DEFAULT} + PIL", "linear": f"{ORT_DEFAULT} + cv2"}
    return [Contender(name, _ONNX, {**common, "resize": resize}) for resize, name in names.items()], {}


def offered(job: Job, **settings: object) -> tuple[list[Contender], dict[str, str]]:
    """Peers of installed packages, among them torch, and those named by hand; or why not."""
    targets = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)} | dict(job.extra_peers)
    absent = {
        name: "no installed package offers it; pip install 'progeo-edge[train]', an editable install once more"
        for name in (TORCH_EAGER, TORCH_COMPILE)
        if name not in targets
    }
    if job.preprocess is None:
        return [], absent | dict.fromkeys(targets, _NO_GRAPH)
    if not job.compiled and targets.pop(TORCH_COMPILE, None) is not None:
        absent[TORCH_COMPILE] = "left out, as it needs a minute to compile (--quick or --no-compile)"
    common = job.peer_settings(**settings)
    return [Contender(name, target, common) for name, target in sorted(targets.items())], absent


def resizers(job: Job, **settings: object) -> list[Contender]:
    """Preprocessing alone, by Pillow and OpenCV; needs a model that states its preprocessing."""
    from progeo_edge.benchmark.peers.resizing import as_open_clip

    spec = job.preprocess
    assert spec is not None
    as_stated, as_floats = spec.model_dump(mode="json"), as_open_clip(spec).model_dump(mode="json")
    wanted = {
        f"{PIL} bicubic, float32": ("pil", as_floats),
        f"{PIL} bicubic": ("pil", as_stated),
        f"{CV2} area, float32": ("area", as_floats),
        f"{CV2} linear": ("linear", as_stated),
    }
    return [
        Contender(name, _RESIZING, {**settings, "resize": resize, "preprocess": preprocess})
        for name, (resize, preprocess) in wanted.items()
    ]
