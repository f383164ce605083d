"""The table of docs/rigs.md: what a rig recognises of a rendered drive that one forward camera does not.

    python tools/rig_table.py --seeds 100 101

Every seed is a street world (`progeo_edge.world.StreetWorld`) driven once, with a stretch the other way round. A
closure is false when its relative pose errs by more than 1 m or 10 degrees against the truth.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

import numpy as np

from progeo_edge.config import load_config
from progeo_edge.detector import LoopDetector
from progeo_edge.encoders import load_encoder
from progeo_edge.geometry import Camera, invert, rotation_angle
from progeo_edge.map_store import MapStore
from progeo_edge.types import LoopClosure, Transform
from progeo_edge.world import StreetWorld, WorldSource, camera_towards, simulate_drive

HEADINGS_DEG = {"front": 0.0, "rear": 180.0, "left": 90.0, "right": 270.0}
RIGS = (("front",), ("front", "rear"), ("left", "right"))
FRAME_RATE_HZ = 2.5
REVERSE = "reverse pass"
FALSE_M, FALSE_DEG = 1.0, 10.0


@dataclass
class Tally:
    """What one rig found, over all worlds.

    Attributes:
        keyframes: Images stored.
        reverse_moments: Moments of the reverse pass that gave keyframes.
        recognised: Those of them with a closure.
        same: Error of every closure in the same direction, metres and degrees.
        reverse: Error of every closure against the direction.
    """

    keyframes: int = 0
    reverse_moments: int = 0
    recognised: int = 0
    same: list[tuple[float, float]] = field(default_factory=list)
    reverse: list[tuple[float, float]] = field(default_factory=list)


def drive(seed: int, rig: dict[str, Camera], tally: Tally, overrides: list[str]) -> None:
    """Drive through one world with one rig."""
    world = StreetWorld(seed)
    source = WorldSource(world, simulate_drive(world, seed, frame_rate_hz=FRAME_RATE_HZ), rig, depth=True)
    encoder = load_encoder("vlad")
    config = load_config(defaults={"budget": {"deadline_ms": 0.0}}, overrides=overrides)
    store = MapStore.create(None, encoder.spec)
    detector = LoopDetector(encoder, store, source.camera, config)
    reverse_moments, recognised = set(), set()
    for frame in source:
        update = detector.process(frame)
        if update.keyframe is not None and source.labels[frame.stamp_ns] == REVERSE:
            reverse_moments.add(frame.stamp_ns)
        for closure in update.closures:
            T_world_reference = source.truth[store.keyframe(closure.reference_id).stamp_ns]
            errors = pose_errors(closure, T_world_reference, source.truth[frame.stamp_ns])
            (tally.reverse if closure.is_reverse else tally.same).append(errors)
            recognised.add(frame.stamp_ns)
    tally.keyframes += len(store)
    tally.reverse_moments += len(reverse_moments)
    tally.recognised += len(reverse_moments & recognised)


def pose_errors(closure: LoopClosure, T_world_reference: Transform, T_world_query: Transform) -> tuple[float, float]:
    """Metres and degrees by which a metric closure errs."""
    assert closure.verification is not None
    assert closure.verification.T_reference_query is not None
    T_error = invert(closure.verification.T_reference_query) @ invert(T_world_reference) @ T_world_query
    return float(np.linalg.norm(T_error[:3, 3])), float(np.degrees(rotation_angle(T_error[:3, :3])))


def row(rig: tuple[str, ...], tally: Tally) -> str:
    """One line of the table."""
    errors = tally.same + tally.reverse
    false = sum(metres > FALSE_M or degrees > FALSE_DEG for metres, degrees in errors)
    cells = [
        ", ".join(rig),
        str(tally.keyframes),
        f"{len(tally.same)}",
        f"{len(tally.reverse)}",
        str(false),
        f"{tally.recognised} of {tally.reverse_moments}",
        _median(tally.same),
        _median(tally.reverse),
    ]
    return f"| {' | '.join(cells)} |"


def _median(errors: list[tuple[float, float]]) -> str:
    if not errors:
        return "-"
    metres, degrees = np.median(np.array(errors), axis=0)
    return f"{100 * metres:.1f} cm, {degrees:.2f}°"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101])
    parser.add_argument("--width", type=int, default=320, help="of the images; the height is three quarters of it")
    parser.add_argument("--set", action="append", default=[], help="a setting, as section.name=value")
    arguments = parser.parse_args()
    print(
        "| cameras | keyframes | closures, same direction | reversed | false | reverse pass: moments recognised |"
        " median error, same direction | reversed |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for names in RIGS:
        rig = {name: camera_towards(HEADINGS_DEG[name], arguments.width, arguments.width * 3 // 4) for name in names}
        tally = Tally()
        for seed in arguments.seeds:
            drive(seed, rig, tally, arguments.set)
        print(row(names, tally), flush=True)


if __name__ == "__main__":
    main()
