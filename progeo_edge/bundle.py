"""What an encoder says of itself: its identity, and (for exported ones) the manifest of its bundle."""

from __future__ import annotations

from dataclasses import dataclass


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
