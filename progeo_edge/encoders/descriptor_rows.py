"""What every backend does with the output of a graph before anybody sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import ModelError

_MIN_NORM = 1e-6


class DescriptorError(ModelError):
    """A backend runs, but what it gives is no descriptor."""


def unit_rows(output: NDArray[Any], path: Path) -> NDArray[np.float32]:
    """Scale (N, D) floats to float32 rows of unit norm.

    Raises:
        DescriptorError: a row is NaN, infinite or zero; it names `path`, the model.
    """
    norms = np.linalg.norm(output.astype(np.float64), axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > _MIN_NORM)))
    if bad.size:
        raise DescriptorError(
            f"model {path} gave a descriptor of norm {norms[bad[0], 0]} for image {bad[0]} of the batch; "
            "a graph in half precision overflows like this: use the FP32 graph"
        )
    return cast("NDArray[np.float32]", (output / norms).astype(np.float32))
