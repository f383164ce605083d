"""Rotation over the groups, and stage 1's learning rates against torch's own scheduler."""

from __future__ import annotations

import math

import pytest
import torch

from progeo_train.schedule import group_of_epoch, stage1_learning_rate


def test_groups_take_turns():
    assert [group_of_epoch(epoch, 3) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(("epochs", "num_groups"), [(480, 8), (24, 8), (11, 3), (8, 8)])
def test_rates_are_those_of_a_scheduler_per_group(epochs, num_groups):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizers = [torch.optim.Adam([parameter], lr=1e-2) for _ in range(num_groups)]
    schedulers = [
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs // num_groups) for optimizer in optimizers
    ]
    for epoch in range(epochs):
        group = epoch % num_groups
        found = stage1_learning_rate(epoch, epochs, num_groups, 1e-2)
        assert found == pytest.approx(optimizers[group].param_groups[0]["lr"], rel=1e-9, abs=1e-15)
        optimizers[group].step()
        schedulers[group].step()


def test_rates_fall_from_the_whole_rate_by_the_cosine():
    rates = [stage1_learning_rate(epoch, 8, 2, 0.3) for epoch in range(8)]
    assert rates[::2] == rates[1::2]
    assert rates[::2] == pytest.approx([0.3, 0.15 * (1 + math.sqrt(0.5)), 0.15, 0.15 * (1 - math.sqrt(0.5))])


def test_an_epoch_beyond_the_last_full_turn_has_rate_zero():
    assert stage1_learning_rate(6, 7, 3, 0.3) == pytest.approx(0.0, abs=1e-15)


def test_fewer_epochs_than_groups_use_the_whole_rate():
    assert [stage1_learning_rate(epoch, 2, 8, 0.3) for epoch in range(2)] == [0.3, 0.3]
