"""Run a function in two processes that train or extract together (gloo), after one import of torch.

A script that calls `in_two_processes` is run by `python`, not by pytest: it forks, which is safe only while nothing has
started threads.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable

import torch
from lightning_fabric import Fabric


def in_two_processes(function: Callable[[Fabric], None], world_size: int = 2) -> None:
    """Call `function(fabric)` in each process, as `torchrun` would start them; leaves with 1 when one fails."""
    context = multiprocessing.get_context("fork")
    port = _free_port()
    processes = [context.Process(target=_run, args=(function, rank, world_size, port)) for rank in range(world_size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit(1)


def _run(function: Callable[[Fabric], None], rank: int, world_size: int, port: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        TORCHELASTIC_RUN_ID="test",
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        GROUP_RANK="0",
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    fabric = Fabric(accelerator="cpu", devices=world_size, strategy="ddp")
    fabric.launch()
    function(fabric)
    torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
