"""A published .pth file as named tensors, without running code from it."""

from __future__ import annotations

import re
import textwrap
import warnings
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from progeo_edge.errors import ModelError

_INNER_KEYS = ("model_state_dict", "state_dict")
_PARALLEL_PREFIX = "module."
_READ_ERRORS = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ImportError,
    MemoryError,
    AssertionError,
    UnicodeDecodeError,
    zipfile.BadZipFile,
)
"""What torch's restricted unpickler raises on damaged files, besides its own error."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the model of a .pth file: a state dict, or a training checkpoint with one under "model_state_dict".

    The prefix "module." that torch's parallel wrappers add is taken off.

    Raises:
        ModelError: missing, damaged, with code in it, or without named tensors.
    """
    if not path.is_file():
        raise ModelError(f"released file {path} is not there; expected a .pth file")
    content = _load(path)
    for key in _INNER_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"released file {path} holds a {type(content).__name__}; expected a state dict of tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise ModelError(f"released file {path}: {name!r} is a {type(value).__name__}; expected a named tensor")
    return {name.removeprefix(_PARALLEL_PREFIX): value for name, value in content.items()}


def _load(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    try:
        with _plain_numbers_allowed(), warnings.catch_warnings():
            # Its advice on old pickles and TorchScript is for programmers; what matters becomes an error below.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except _READ_ERRORS as error:
        raise ModelError(f"released file {path} is damaged or no .pth file: {_reason(error)}") from error
    except Exception as error:
        # The unpickler's own error; its class is named like the module that nothing here may import.
        if type(error).__name__ != "UnpicklingError":
            raise
        raise ModelError(
            f"released file {path} is damaged, or holds objects that could run code, and is not opened "
            f"({_reason(error)}); ask its author for the state dict alone"
        ) from error


def _plain_numbers_allowed() -> AbstractContextManager[object]:
    """Training checkpoints keep their best recall as a numpy number, which is data, not code."""
    if not hasattr(torch.serialization, "safe_globals"):  # before torch 2.5
        return nullcontext()
    scalar = cast("Callable[..., Any]", np.float64(0).__reduce__()[0])
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (scalar, "numpy.core.multiarray.scalar"),  # numpy 1
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)),
    ]
    context: AbstractContextManager[object] = torch.serialization.safe_globals(allowed)
    return context


def _reason(error: BaseException) -> str:
    """What is wrong, without torch's advice to open the file unrestricted."""
    text = str(error)
    forbidden = re.search(r"GLOBAL ([\w.]+)", text)
    if forbidden:
        return f"it calls for {forbidden[1]}"
    if "TorchScript" in text:
        return "it is a TorchScript archive"
    detail = re.search(r"WeightsUnpickler error:\s*([^\n]+)", text)
    return textwrap.shorten(detail[1] if detail else text or type(error).__name__, 120)
