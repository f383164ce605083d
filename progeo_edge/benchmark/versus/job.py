"""What `progeo-bench vs` is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from progeo_edge.benchmark.versus.interleaving import Pace
from progeo_edge.bundle import MANIFEST_NAME, Manifest, Preprocess, read_manifest
from progeo_edge.errors import InputError
from progeo_edge.graph_file import open_graph

Part = Literal["frame", "encoder", "resize", "index", "matcher", "cold"]
PARTS: tuple[Part, ...] = get_args(Part)

DEFAULT_BACKENDS = ("onnx", "openvino")
DEFAULT_PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class Job:
    """All of it.

    Attributes:
        model: As `load_encoder` takes it.
        parts: What to compare.
        source: Recording that frames come from; None renders them.
        descriptors: File of real descriptors for the index; None compares on random ones alone, or on those of the
            source's frames.
        checkpoint: Torch checkpoint that the bundle was exported from; None for random weights.
        architecture: Backbone for random weights; None takes the bundle's.
        precisions: Of ours; what the bundle has not is listed as absent.
        backends: Of ours, likewise.
        threads: Of every encoder and matcher; the index is always searched by one.
        pace: Rounds and blocks.
        num_frames: Different frames.
        num_database: Keyframes that the whole way searches.
        sizes: Numbers of descriptors for the index.
        build_limit_s: An index that would take longer to build is left out.
        cold_repeats: Cold starts of each.
        compiled: Whether torch.compile takes part, which needs a minute to compile.
        extra_peers: Name to "module:Class" of further contenders for frames.
    """

    model: str
    parts: tuple[Part, ...] = PARTS
    source: Path | None = None
    descriptors: Path | None = None
    checkpoint: Path | None = None
    architecture: str | None = None
    precisions: tuple[str, ...] = DEFAULT_PRECISIONS
    backends: tuple[str, ...] = DEFAULT_BACKENDS
    threads: int = 2
    pace: Pace = field(default_factory=Pace)
    num_frames: int = 24
    num_database: int = 10_000
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000)
    build_limit_s: float = 120.0
    cold_repeats: int = 5
    compiled: bool = True
    extra_peers: Mapping[str, str] = field(default_factory=dict)

    @property
    def manifest(self) -> Manifest | None:
        """Of the bundle; None for a foreign model and the built-in one."""
        folder = Path(self.model)
        return read_manifest(folder) if (folder / MANIFEST_NAME).is_file() else None

    @property
    def preprocess(self) -> Preprocess | None:
        """How frames become model input; None for the built-in encoder, which has no graph."""
        return None if self.model == "vlad" else open_graph(Path(self.model), None).preprocess

    def peer_settings(self, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - plain JSON
        """What peers of the model are told: the model, its preprocessing, its checkpoint or architecture."""
        spec, manifest = self.preprocess, self.manifest
        architecture = self.architecture or (manifest.architecture if manifest else "RN50")
        return {
            "model": self.model,
            "preprocess": None if spec is None else spec.model_dump(mode="json"),
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
            "architecture": architecture.removesuffix("-GeM"),
            "dimension": None if manifest is None else manifest.dimension,
            **more,
        }


def parse_parts(text: str) -> tuple[Part, ...]:
    """Parts from "frame,index".

    Raises:
        InputError: an unknown part.
    """
    named = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in named if name not in PARTS]
    if unknown or not named:
        raise InputError(f"--only {text!r} names no known part; expected some of {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in named)


def parse_sizes(text: str) -> tuple[int, ...]:
    """Numbers of descriptors from "1k,10k,1M", ascending.

    Raises:
        InputError: not a list of whole numbers above 0, each with k or M behind it or without.
    """
    try:
        sizes = sorted({_number(part.strip()) for part in text.split(",")})
    except ValueError as error:
        raise InputError(f"--sizes {text!r} is no list of sizes; write them as 1k,10k,1M") from error
    if sizes[0] < 1:
        raise InputError(f"--sizes {text!r} holds {sizes[0]}; expected sizes above 0")
    return tuple(sizes)


def _number(text: str) -> int:
    factor = {"k": 1_000, "m": 1_000_000}.get(text[-1:].lower(), 1)
    return int(text[:-1] if factor > 1 else text) * factor
