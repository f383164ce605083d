"""What the processes of one training exchange beside the gradients of the encoder."""

from __future__ import annotations

from lightning_fabric import Fabric
from torch import Tensor, nn


def gathered_rows(fabric: Fabric, rows: Tensor) -> Tensor:
    """The rows of all processes in their order, with gradients.

    A loss that every process computes over all rows gives each process the gradient of its own rows times the number
    of processes; averaging the parameters' gradients over the processes then gives that of the one loss.

    Args:
        fabric: Launched.
        rows: (B, ...) of this process, of one shape in all.

    Returns:
        (world_size * B, ...).
    """
    if fabric.world_size == 1:
        return rows
    gathered = fabric.all_gather(rows, sync_grads=rows.requires_grad)
    assert isinstance(gathered, Tensor)
    return gathered.flatten(0, 1)


def average_gradient(fabric: Fabric, parameter: nn.Parameter) -> None:
    """Replace a parameter's gradient by its mean over the processes."""
    if fabric.world_size == 1:
        return
    assert parameter.grad is not None
    averaged = fabric.all_reduce(parameter.grad, reduce_op="mean")
    assert isinstance(averaged, Tensor)
    parameter.grad = averaged
