"""What a peer is: one way to do a job, opened in a process of its own, asked one item at a time."""

from __future__ import annotations

import base64
import importlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import InputError

Step = Callable[[int], Any]
"""Does one step of the job for the item of this number, and gives the answer as an array or a number."""


class Peer(Protocol):
    """One way to do a job.

    Attributes:
        facts: What really runs, as plain JSON: versions, threads, provider, time to build.
        steps: Name of a step to what does it. Steps of the same name must do the same work in every peer.
    """

    @property
    def facts(self) -> Mapping[str, Any]: ...  # noqa: D102

    @property
    def steps(self) -> Mapping[str, Step]: ...  # noqa: D102


class PeerClass(Protocol):
    """A class of peers, named "module:Class"."""

    def __call__(self, settings: Mapping[str, Any]) -> Peer:
        """Open it; ImportError or a ProgeoError says that it is absent here, and why."""
        ...

    def import_libraries(self, settings: Mapping[str, Any]) -> None:
        """Import what the peer needs, so that a cold start can tell imports from loading."""
        ...


def peer_class(target: str) -> PeerClass:
    """Look up a class of peers.

    Args:
        target: "module:Class".

    Raises:
        InputError: not of that form, or the module has no such class.
        ImportError: the module is not there.
    """
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise InputError(f"peer {target!r} is not of the form module:Class; name a class such as {_EXAMPLE}")
    module = importlib.import_module(module_name)
    if not hasattr(module, name):
        raise InputError(f"module {module_name} has no {name!r}; name a class of peers such as {_EXAMPLE}")
    return cast(PeerClass, getattr(module, name))


_EXAMPLE = "my_package.my_peers:MyPeer"


def pack(answer: object) -> dict[str, Any]:
    """An array or number as plain JSON; pickles never cross a pipe."""
    array = np.asarray(answer)
    if array.dtype.hasobject:
        raise TypeError(f"a peer answered with {type(answer).__name__}; expected an array of numbers")
    return {"dtype": array.dtype.str, "shape": array.shape, "data": base64.b64encode(array.tobytes()).decode()}


def unpack(packed: Mapping[str, Any]) -> NDArray[Any]:
    """The array that `pack` has packed."""
    data = base64.b64decode(packed["data"])
    values: NDArray[Any] = np.frombuffer(data, np.dtype(packed["dtype"])).reshape(packed["shape"])
    return values
