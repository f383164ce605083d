"""Which keyframes belong to one moment: images that the cameras of a rig took at one time, and so at one place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

MOMENT_NS = 20_000_000
"""Images of different cameras are of one moment when they are no further apart: rigs without a common trigger."""


class Taken(Protocol):
    """What is asked of an image here; `Keyframe` and the map's `KeyframeInfo` have it."""

    @property
    def id(self) -> int: ...  # noqa: D102
    @property
    def session(self) -> int: ...  # noqa: D102
    @property
    def stamp_ns(self) -> int: ...  # noqa: D102
    @property
    def camera(self) -> str: ...  # noqa: D102


@dataclass(slots=True)
class _Moment:
    number: int
    stamp_ns: int
    cameras: set[str]


class Moments:
    """Numbers the moments of every session, in the order in which the keyframes came.

    An image belongs to the last moment of its session when it was taken within `MOMENT_NS` of that moment's first
    image, by a camera that the moment does not have yet. With one camera every keyframe is a moment of its own.

    Args:
        keyframes: Those of a map, in the order of their ids.
    """

    def __init__(self, keyframes: Iterable[Taken] = ()) -> None:
        self._numbers: dict[int, int] = {}
        self._joined: set[int] = set()
        self._last: dict[int, _Moment] = {}
        for keyframe in keyframes:
            self.add(keyframe)

    def add(self, keyframe: Taken) -> None:
        """Note a keyframe; one that is known already changes nothing."""
        if keyframe.id in self._numbers:
            return
        last = self._last.get(keyframe.session)
        if last is not None and self.would_join(keyframe.session, keyframe.stamp_ns, keyframe.camera):
            last.cameras.add(keyframe.camera)
            self._joined.add(keyframe.id)
        else:
            number = 0 if last is None else last.number + 1
            last = self._last[keyframe.session] = _Moment(number, keyframe.stamp_ns, {keyframe.camera})
        self._numbers[keyframe.id] = last.number

    def would_join(self, session: int, stamp_ns: int, camera: str) -> bool:
        """Whether an image that is not a keyframe yet belongs to the last moment of its session."""
        last = self._last.get(session)
        return last is not None and camera not in last.cameras and abs(stamp_ns - last.stamp_ns) <= MOMENT_NS

    def number(self, keyframe_id: int) -> int:
        """Number of a keyframe's moment within its session, counted from 0."""
        return self._numbers[keyframe_id]

    def joined(self, keyframe_id: int) -> bool:
        """Whether a keyframe was another image of the moment of the keyframe before it in its session."""
        return keyframe_id in self._joined
