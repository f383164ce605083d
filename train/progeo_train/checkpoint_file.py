"""One checkpoint, one `.safetensors` file: tensors under dotted names, and a JSON record in the file's header.

`model.<name>` are the encoder's tensors; every other first word ("optimizer", "classifier", "prompts", "random") is
state that only the training needs. safetensors has no checksum, so the record holds the sha256 of each tensor and the
header the sha256 of the record: damage anywhere in the file is noticed. docs/checkpoints.md describes the format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from progeo_edge import atomic
from progeo_edge.bundle import Sha256
from progeo_edge.errors import ConfigError, ModelError
from progeo_train.models.place_encoder import EncoderSpec, PlaceEncoder, build_encoder_from_spec

SCHEMA_VERSION = 1
MODEL_PREFIX = "model."
SUFFIX = ".safetensors"

_RECORD_KEY = "progeo"
_CHECKSUM_KEY = "progeo_sha256"
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""What `torch.save` writes: a zip archive with a pickle in it, or in old versions the bare pickle."""


class CheckpointRecord(BaseModel):
    """What a checkpoint says of itself.

    Attributes:
        kind: "training" when it comes from a run of progeo-train, "model" when it holds an imported encoder alone.
        name: What a person calls the model; None leaves it to the backbone's and the file's name.
        encoder: How the encoder is built; None when the file holds no encoder (stage 1: prompts only).
        training: Free JSON of the training: stage, epoch, iteration, config, metrics, data fingerprint, seed, versions.
            Numbers that are not finite become null.
        schema_version: Version of this format.
        tensor_sha256: `tensor_sha256` of every tensor by its full name; `write_checkpoint` fills it in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["training", "model"] = "training"
    name: str | None = Field(None, min_length=1)
    encoder: EncoderSpec | None = None
    training: dict[str, Any] = {}
    schema_version: int = Field(SCHEMA_VERSION, ge=1)
    tensor_sha256: dict[str, Sha256] = {}

    @property
    def model_sha256(self) -> str:
        """sha256 (hex) over the encoder's spec and its tensors' names, types, shapes and bytes, in order of the names.

        Two checkpoints of equal weights have one identity, whatever training state they hold beside them.
        """
        spec = None if self.encoder is None else self.encoder.model_dump(mode="json")
        tensors = sorted(item for item in self.tensor_sha256.items() if item[0].startswith(MODEL_PREFIX))
        return hashlib.sha256(json.dumps([spec, tensors], sort_keys=True).encode()).hexdigest()


def write_checkpoint(path: Path, record: CheckpointRecord, tensors: Mapping[str, Tensor]) -> CheckpointRecord:
    """Write a checkpoint wholly or not at all, and durably.

    Args:
        path: File to write; it must end in ".safetensors".
        record: What the file says of itself; its `tensor_sha256` is computed here.
        tensors: Full name to tensor, of any device and memory layout.

    Returns:
        The record as written.

    Raises:
        ModelError: another suffix, or the file cannot be written.
    """
    if path.suffix != SUFFIX:
        raise ModelError(f"checkpoint {path} must end in {SUFFIX}")
    own = _own_memory(tensors)
    hashes = {name: tensor_sha256(tensor) for name, tensor in own.items()}
    record = record.model_copy(update={"schema_version": SCHEMA_VERSION, "tensor_sha256": hashes})
    text = record.model_dump_json()
    header = {_RECORD_KEY: text, _CHECKSUM_KEY: hashlib.sha256(text.encode()).hexdigest()}
    try:
        with atomic.replacing(path) as temporary:
            save_file(own, temporary, metadata=header)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"checkpoint {path} cannot be written: {error}; check folder and free space") from error
    return record


def read_record(path: Path) -> CheckpointRecord:
    """Read and check the record of a checkpoint; no tensor is read.

    Raises:
        ModelError: missing, no checkpoint (a pickle, or another safetensors file), damaged, or of a newer schema.
    """
    with _opened(path) as file:
        return _record_of(file, path)


def read_checkpoint(path: Path, prefix: str = "") -> tuple[CheckpointRecord, dict[str, Tensor]]:
    """Read the record, and tensors to the CPU, each compared with its stated hash.

    Both come from one opened file, so that they belong together also while a training run replaces the file.

    Args:
        path: The checkpoint.
        prefix: Only names that start so are read, and lose it: "classifier.3." gives {"weight": ...}.

    Raises:
        ModelError: as `read_record`, or a tensor is damaged.
    """
    with _opened(path) as file:
        record = _record_of(file, path)
        names = [name for name in record.tensor_sha256 if name.startswith(prefix)]
        return record, {name[len(prefix) :]: _checked_tensor(file, name, record, path) for name in names}


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of `read_checkpoint` alone."""
    return read_checkpoint(path, prefix)[1]


def model_tensors(encoder: PlaceEncoder) -> dict[str, Tensor]:
    """An encoder's tensors under the names that they have in a checkpoint; they share its memory."""
    return {f"{MODEL_PREFIX}{name}": tensor for name, tensor in encoder.state_dict().items()}


def load_encoder_weights(path: Path, *, architecture: str | None = None) -> PlaceEncoder:
    """Build the encoder of a checkpoint, on the CPU and in evaluation mode.

    Args:
        path: The checkpoint.
        architecture: Backbone that the caller expects; None takes any.

    Raises:
        ModelError: as `read_checkpoint`; no encoder in it, one of another backbone, or tensors that are not its own.
    """
    return encoder_of(*read_checkpoint(path, MODEL_PREFIX), path, architecture=architecture)


def encoder_of(
    record: CheckpointRecord, tensors: Mapping[str, Tensor], path: Path, *, architecture: str | None = None
) -> PlaceEncoder:
    """As `load_encoder_weights`, from a record and model tensors that were read before.

    Args:
        record: As read.
        tensors: As read with `MODEL_PREFIX`.
        path: Where they come from, for messages.
        architecture: As in `load_encoder_weights`.

    Raises:
        ModelError: as `load_encoder_weights`.
    """
    spec = record.encoder
    if spec is None:
        raise ModelError(f"checkpoint {path} holds no encoder, only training state; name a checkpoint of stage 2")
    if architecture is not None and spec.architecture != architecture:
        raise ModelError(
            f"checkpoint {path} is of backbone {spec.architecture}, not {architecture}; "
            f"set model.backbone={spec.architecture} or name another checkpoint"
        )
    try:
        encoder = build_encoder_from_spec(spec)
    except ConfigError as error:
        raise ModelError(f"checkpoint {path} is of a model that cannot be built here: {error}") from error
    load_strictly(encoder, tensors, path)
    return encoder.eval()


def load_strictly(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a module that has exactly these, of exactly these shapes.

    Args:
        module: Receives the values; its types and devices stay.
        tensors: Name to tensor, as in the module's `state_dict`.
        path: Where they come from, for the message.

    Raises:
        ModelError: missing or unknown names, or other shapes, by name; the module is not changed then.
    """
    wanted = module.state_dict()
    problems = [
        *_listed("misses", sorted(wanted.keys() - tensors.keys())),
        *_listed("holds the unknown", sorted(tensors.keys() - wanted.keys())),
        *(
            f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(wanted[name].shape)}"
            for name in sorted(wanted.keys() & tensors.keys())
            if tensors[name].shape != wanted[name].shape
        ),
    ]
    if problems:
        raise ModelError(f"checkpoint {path} does not fit its model: {'; '.join(problems[:4])}")
    module.load_state_dict(dict(tensors))


def model_sha256(path: Path) -> str:
    """Identity of a checkpoint's encoder; see `CheckpointRecord.model_sha256`.

    Raises:
        ModelError: as `read_record`.
    """
    return read_record(path).model_sha256


def tensor_sha256(tensor: Tensor) -> str:
    """sha256 (hex) over a tensor's type, shape and bytes in row-major order."""
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, no two of which share memory, as safetensors wants them."""
    own: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in taken or storage.nbytes() != plain.numel() * plain.element_size():
            plain = plain.clone()
        taken.add(plain.untyped_storage().data_ptr())
        own[name] = plain
    return own


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file behind `safe_open`; anything that goes wrong with it within the body is one `ModelError`."""
    if not path.is_file():
        raise ModelError(f"checkpoint {path} is not there; expected a {SUFFIX} file of progeo-train")
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
        if start.startswith(_PICKLE_STARTS):
            raise ModelError(
                f"checkpoint {path} is a pickle, which may hold code and is not opened; "
                "import a released .pth file with: progeo-train import-checkpoint"
            )
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise ModelError(f"checkpoint {path} is damaged or no {SUFFIX} file: {error}; copy it again") from error


def _record_of(file: Any, path: Path) -> CheckpointRecord:  # noqa: ANN401 - safetensors does not type its handle
    header = file.metadata() or {}
    text = header.get(_RECORD_KEY)
    if text is None:
        raise ModelError(f"{path} is a {SUFFIX} file, but no checkpoint of progeo-train: its header has no record")
    if hashlib.sha256(text.encode()).hexdigest() != header.get(_CHECKSUM_KEY):
        raise ModelError(f"checkpoint {path} is damaged: its record does not match its checksum; copy it again")
    version = json.loads(text).get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ModelError(
            f"checkpoint {path} is of schema {version}, this version reads up to {SCHEMA_VERSION}; upgrade progeo-edge"
        )
    try:
        record = CheckpointRecord.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"checkpoint {path}: its record's {where or 'content'} is wrong: {first['msg']}") from None
    if set(file.keys()) != record.tensor_sha256.keys():
        raise ModelError(f"checkpoint {path} is damaged: its tensors are not those its record lists; copy it again")
    return record


def _checked_tensor(file: Any, name: str, record: CheckpointRecord, path: Path) -> Tensor:  # noqa: ANN401
    # A copy, since the tensor is otherwise a window into the file.
    tensor: Tensor = file.get_tensor(name).clone()
    if tensor_sha256(tensor) != record.tensor_sha256[name]:
        raise ModelError(f"checkpoint {path} is damaged: tensor {name!r} does not match its sha256; copy it again")
    return tensor


def _listed(problem: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"it {problem} {', '.join(names[:3])}{more}"] if names else []
