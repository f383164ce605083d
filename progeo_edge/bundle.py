"""What an encoder says of itself: its identity, its preprocessing, and (for exported ones) the manifest of its bundle.

A bundle is a folder with graphs (`model.onnx`, `model.fp16.onnx`, ...) and a `manifest.json` that states the sha256 of
every file. A foreign model is any `.onnx` beside a `.yaml` of the same name. docs/bundle.md documents both formats.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import textwrap
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from progeo_edge import atomic
from progeo_edge.errors import ModelError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
ENGINES_FOLDER = "engines"
"""Folder within a bundle for what a device builds of it."""
NOT_TRAINED = "not trained for places: stock or random weights"
"""A note of the manifest, by which a robot can warn."""

Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Identity of an encoder: maps and queries may only be compared under one fingerprint.

    Attributes:
        name: What a person calls it ("vlad64-512", "progeo-rn50").
        dimension: Length D of its descriptors.
        fingerprint: sha256 (hex) over the weights and everything of the preprocessing that changes a descriptor.
    """

    name: str
    dimension: int
    fingerprint: str


def _relative_inside(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in name or "\0" in name:
        raise ValueError("a file of a bundle must be named by a relative path inside it")
    if parts[0] == ENGINES_FOLDER:
        raise ValueError("engines are built and proven on the device that runs them; a bundle cannot bring any")
    return name


FileName = Annotated[str, AfterValidator(_relative_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PerChannel = tuple[float, float, float]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


class Preprocess(_Strict):
    """How an image becomes the input of a graph; part of the model, hashed with it.

    Attributes:
        width_px: Width that the graph takes.
        height_px: Height that the graph takes.
        color: Channel order that the graph takes.
        layout: "nhwc" or "nchw".
        dtype: "uint8" (0 to 255) or "float32".
        mean: Per channel in the order of `color`, for values scaled to 0..1; None when the graph normalises itself.
            A float32 graph with None is given 0..1.
        std: As `mean`.
        resize: Interpolation. "area_or_..." averages areas along an axis that shrinks and interpolates along one that
            grows; plain "linear" and "cubic" alias when they shrink (a 1080p image moves as far as another place).
        aspect: "squash" ignores the aspect ratio, "crop" cuts the centre, "pad" adds black borders.
    """

    width_px: int = Field(ge=1, le=8192)
    height_px: int = Field(ge=1, le=8192)
    color: Literal["bgr", "rgb"]
    layout: Literal["nhwc", "nchw"]
    dtype: Literal["uint8", "float32"]
    mean: PerChannel | None
    std: PerChannel | None
    resize: Literal["area_or_cubic", "area_or_linear", "linear", "cubic"] = "area_or_cubic"
    aspect: Literal["squash", "crop", "pad"] = "squash"

    @model_validator(mode="after")
    def _normalisation_is_whole(self) -> Preprocess:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together: state both, or null for both")
        if self.mean is not None and self.dtype == "uint8":
            raise ValueError("mean and std need dtype float32; a uint8 graph normalises itself (null for both)")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be positive in every channel")
        return self

    @property
    def hash(self) -> str:
        """sha256 (hex) of the canonical JSON of all fields."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()


class Manifest(_Strict):
    """`manifest.json` of a bundle. The fields from `opset` on are the exporter's record, not needed to run.

    Attributes:
        schema_version: Version of this format.
        name: What a person calls the model.
        architecture: Backbone and head ("RN50-GeM").
        dimension: Length D of the descriptors.
        preprocess: Image to graph input.
        preprocess_hash: `preprocess.hash`, so that an edited field is noticed.
        graphs: File of each precision.
        files: sha256 of every file in the bundle except the manifest.
        input_name: Name of the graph's image input, of type `preprocess.dtype`.
        output_name: Name of the graph's descriptor output.
        output_dtype: Always float32, also in half graphs.
        opset: ONNX opset of the graphs.
        islands: Names of the nodes kept in FP32 in the half graph.
        golden: File with golden inputs and descriptors.
        tolerances: Per precision, the limit of each figure in `parity`.
        parity: Per precision, the figures that the exporter measured.
        tool_versions: Versions of the tools that made the bundle.
        checkpoint_sha256: Hash of the checkpoint that was exported.
        max_batch: Largest batch that the export was proven with, and that engines are built for.
        probe_images: Where the images of `parity` come from ("rendered street, 64 places").
        notes: What the exporter decided by itself, one sentence each: nodes it kept in FP32 and why, warnings.
    """

    schema_version: int = Field(ge=1)
    name: str = Field(min_length=1)
    architecture: str
    dimension: int = Field(gt=0)
    preprocess: Preprocess
    preprocess_hash: Sha256
    graphs: dict[Precision, FileName] = Field(min_length=1)
    files: dict[FileName, Sha256]
    input_name: str = Field(min_length=1)
    output_name: str = Field(min_length=1)
    output_dtype: Literal["float32"] = "float32"
    opset: int | None = Field(None, ge=1)
    islands: tuple[str, ...] = ()
    golden: FileName | None = None
    tolerances: dict[Precision, dict[str, float]] = {}
    parity: dict[Precision, dict[str, float]] = {}
    tool_versions: dict[str, str] = {}
    checkpoint_sha256: Sha256 | None = None
    max_batch: int | None = Field(None, ge=1)
    probe_images: str = ""
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Manifest:
        if self.preprocess_hash != self.preprocess.hash:
            raise ValueError(
                f"preprocess_hash is {self.preprocess_hash} but the preprocess section hashes to "
                f"{self.preprocess.hash}; export the bundle again instead of editing it"
            )
        for name in (*self.graphs.values(), *([self.golden] if self.golden else [])):
            if name not in self.files:
                raise ValueError(f"{name!r} has no sha256 under 'files'")
        return self


class ForeignModel(_Strict):
    """`model.yaml` beside a `model.onnx` that was exported by other means.

    Attributes:
        preprocess: Image to graph input.
        name: What a person calls the model; None takes the file's name.
        input: Name of the image input; None when the graph has one input.
        output: Name of the descriptor output; None when the graph has one output.
        dimension: Length D of the descriptors; None takes the graph's.
        sha256: Hash of the .onnx; None leaves damage to it unnoticed.
    """

    preprocess: Preprocess
    name: str | None = Field(None, min_length=1)
    input: str | None = Field(None, min_length=1)
    output: str | None = Field(None, min_length=1)
    dimension: int | None = Field(None, gt=0)
    sha256: Sha256 | None = None


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json`; the files' hashes are checked where the files are used (`check_file`).

    Raises:
        ModelError: missing, no JSON, of a newer schema, unknown or wrong fields.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise ModelError(
            f"bundle {folder} has no {MANIFEST_NAME}; export it with progeo-export, or name an .onnx file with a .yaml"
        )
    try:
        text = path.read_bytes()
        values = from_json(text, allow_inf_nan=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"manifest {path} cannot be read as JSON: {error}; copy or export the bundle again") from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ModelError(
            f"manifest {path} is of schema {version}, this version reads up to {SCHEMA_VERSION}; upgrade progeo-edge"
        )
    return _validate(Manifest, text, path)


def write_manifest(manifest: Manifest, folder: Path) -> Path:
    """Write `manifest.json` into the bundle atomically and return its path."""
    path = folder / MANIFEST_NAME
    atomic.write_text(path, manifest.model_dump_json(indent=2) + "\n")
    return path


def read_foreign(path: Path) -> ForeignModel:
    """Read the YAML that states the preprocessing of a foreign model.

    Raises:
        ModelError: missing, no YAML, unknown key (with the nearest known one), wrong type or range.
    """
    if not path.is_file():
        raise ModelError(
            f"model {path.with_suffix('.onnx')} has no {path.name} beside it; write one that states its preprocessing "
            "(docs/bundle.md shows how)"
        )
    import yaml

    try:
        text = json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"model description {path} cannot be read: {error}; docs/bundle.md shows the keys") from error
    return _validate(ForeignModel, text, path)


_AnyModel = TypeVar("_AnyModel", bound=_Strict)


def _validate(kind: type[_AnyModel], text: str | bytes, path: Path) -> _AnyModel:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(_explain(item, kind) for item in error.errors())
        raise ModelError(f"{path}: {problems}") from None


def _explain(error: ErrorDetails, kind: type[_Strict]) -> str:
    dotted = ".".join(str(part) for part in error["loc"]) or "the file as a whole"
    if error["type"] == "extra_forbidden":
        known = [*kind.model_fields, *(f"preprocess.{name}" for name in Preprocess.model_fields)]
        near = difflib.get_close_matches(dotted, known, n=1, cutoff=0.5)
        return f"key {dotted!r} is unknown; " + (f"did you mean {near[0]!r}?" if near else "docs/bundle.md lists them")
    if error["type"] == "missing":
        return f"key {dotted!r} is missing; docs/bundle.md says what it states"
    if error["type"] == "value_error":
        return f"{dotted}: {error['ctx']['error']}"
    return f"{dotted} = {textwrap.shorten(repr(error['input']), 80)}: {error['msg']}"
