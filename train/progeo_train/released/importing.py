"""From a published .pth file to a checkpoint of this project that computes the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from progeo_edge.errors import ConfigError, ModelError
from progeo_edge.graph_file import file_sha256
from progeo_train.checkpoint_file import CheckpointRecord, load_strictly, model_tensors, write_checkpoint
from progeo_train.models.place_encoder import PlaceEncoder, build_encoder_from_spec
from progeo_train.released import cosplace, progeo
from progeo_train.released.layouts import check_backbone, recognise
from progeo_train.released.reading import read_state_dict

_log = logging.getLogger(__name__)


def import_released(path: Path, backbone: str | None, out: Path) -> dict[str, Any]:
    """Convert a published file.

    Args:
        path: .pth file of ProGEO (stage 2), CosPlace or EigenPlaces: a state dict, or a training checkpoint with one.
        backbone: "RN50", "RN101", "ViT-B-16", "ViT-B-32" (also as "CLIP-RN50"), "ResNet18", "ResNet50", "ResNet101"
            or "ResNet152", compared with what the tensors show; None takes what they show.
        out: Checkpoint to write (.safetensors).

    Returns:
        For the user: family, backbone, descriptor_dim, image_size_px (height, width), normalise (whether the published
        code ends in the L2 norm), tensors, set_aside (numbers of tensors), model_sha256, out.

    Raises:
        ModelError: `path` is missing, damaged, with code in it, of another backbone, or has missing, unknown or
            misshapen tensors, which are named; `out` cannot be written.
    """
    tensors = read_state_dict(path)
    layout = recognise(tensors, path)
    check_backbone(layout, backbone, path)
    family = progeo if layout.family == "ProGEO" else cosplace
    spec = family.encoder_spec(tensors, layout.backbone, path)
    try:
        encoder = build_encoder_from_spec(spec)
    except ConfigError as error:
        raise ModelError(f"released file {path} is of a model that cannot be built: {error}") from error
    set_aside = [name for name in tensors if family.is_set_aside(name)]
    kept = {name: tensor for name, tensor in tensors.items() if name not in set(set_aside)}
    load_strictly(encoder, renamed(kept, encoder, family.published_name, path), path)
    _tell(layout.family, encoder, set_aside)
    record = CheckpointRecord(
        kind="model",
        name=f"{layout.backbone} {path.stem}",
        encoder=spec,
        training={"imported_from": {"file": path.name, "sha256": file_sha256(path), "layout": layout.family}},
    )
    written = write_checkpoint(out, record, model_tensors(encoder))
    return {
        "family": layout.family,
        "backbone": layout.backbone,
        "descriptor_dim": spec.descriptor_dim,
        "image_size_px": list(spec.image_size_px),
        "normalise": spec.normalise,
        "tensors": len(kept),
        "set_aside": len(set_aside),
        "model_sha256": written.model_sha256,
        "out": str(out),
    }


def renamed(
    tensors: Mapping[str, Tensor], encoder: PlaceEncoder, published_name: Callable[[str], str], path: Path
) -> dict[str, Tensor]:
    """Published tensors under the encoder's own names.

    Args:
        tensors: Of the file, without those set aside.
        encoder: Names and shapes to fill.
        published_name: Name in the file of one of its tensors.
        path: The file, for messages.

    Raises:
        ModelError: missing, unknown or misshapen tensors, by their published names.
    """
    wanted = {published_name(name): (name, tensor.shape) for name, tensor in encoder.state_dict().items()}
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [f"{name} is unknown" for name in tensors if name not in wanted]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(shape)}"
        for name, (_, shape) in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ModelError(f"released file {path} does not fit its backbone: {'; '.join(problems[:5])}{more}")
    return {name: tensors[published] for published, (name, _) in wanted.items()}


def _tell(family: str, encoder: PlaceEncoder, set_aside: list[str]) -> None:
    if set_aside:
        _log.info(
            "%d tensors of the text tower and the attention pool take no part in a descriptor and are left out",
            len(set_aside),
        )
    if not encoder.spec.normalise:
        _log.warning(
            "%s's ViT code leaves out the last L2 norm, and so does this checkpoint; progeo-eval and progeo-run "
            "normalise its descriptors, and an exported bundle ends in the norm",
            family,
        )
