"""Means over steps and processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from progeo_train.step_means import StepMeans
from tests.train.small_training import one_process


class TwoProcesses:
    """Stands for a Fabric whose other process has seen values larger by 1."""

    world_size = 2

    def all_reduce(self, values, reduce_op):
        assert reduce_op == "mean"
        return (values + values + 1) / 2


def scalars(**values):
    return {name: torch.tensor(value) for name, value in values.items()}


def test_means_are_of_the_steps_since_the_last_take():
    means, fabric = StepMeans(), one_process()
    means.add(scalars(loss=1.0, place=10.0))
    means.add(scalars(loss=2.0, place=30.0))
    assert means.take(fabric) == {"loss": 1.5, "place": 20.0}
    means.add(scalars(loss=7.0, place=0.0))
    assert means.take(fabric) == {"loss": 7.0, "place": 0.0}


def test_nothing_counted_is_no_mean():
    means = StepMeans()
    assert means.take(one_process()) == {}
    lonely: Any = SimpleNamespace(world_size=2)
    assert means.take(lonely) == {}, "no process may wait for another one"


def test_small_numbers_are_not_lost_beside_large_ones():
    means = StepMeans()
    for value in (2.0**24, 1.0, 1.0, 1.0):
        means.add(scalars(loss=value))
    assert means.take(one_process())["loss"] == (2**24 + 3) / 4


def test_means_are_of_all_processes():
    means = StepMeans()
    means.add(scalars(loss=1.0))
    means.add(scalars(loss=4.0))
    fabric: Any = TwoProcesses()
    assert means.take(fabric) == {"loss": pytest.approx(3.0)}
