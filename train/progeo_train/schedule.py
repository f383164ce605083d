"""Which group of places an epoch trains, and at what rate stage 1 learns in it.

Both stages rotate over the groups: epoch e trains group e mod G (arXiv 2204.02287, section 3.1). Every number here is a
function of the epoch alone, so a resumed run needs no scheduler's state.
"""

from __future__ import annotations

import math


def group_of_epoch(epoch: int, num_groups: int) -> int:
    """Group that is trained in an epoch, both counted from 0."""
    return epoch % num_groups


def stage1_learning_rate(epoch: int, epochs: int, num_groups: int, learning_rate: float) -> float:
    """Cosine annealing to zero, for each group on its own (Loshchilov and Hutter 2017, eq. 5, without restarts).

    With t the epochs that the group has had and T = epochs // num_groups, the rate is
    learning_rate (1 + cos(pi t / T)) / 2: the whole rate in a group's first epoch.

    As published, T is rounded down. When `epochs` is no multiple of `num_groups`, the first groups have one epoch more
    than T, at rate 0. With fewer epochs than groups T counts as 1: the first groups have one epoch at the whole rate,
    and the others are never trained.

    Args:
        epoch: From 0.
        epochs: Of the whole stage.
        num_groups: Number of groups.
        learning_rate: At the start.
    """
    epochs_had = epoch // num_groups
    epochs_to_zero = max(1, epochs // num_groups)
    return 0.5 * learning_rate * (1.0 + math.cos(math.pi * epochs_had / epochs_to_zero))
