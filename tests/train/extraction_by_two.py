"""Run by test_extraction.py: two processes extract, describe and search; one process is killed and continued."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from progeo_train.data.image_table import ImageTable
from progeo_train.extraction import describe
from progeo_train.feature_file import FeatureFile
from progeo_train.sharded_search import search_features
from tests.train.test_extraction import COUNT, DIM, MEAN, SIZE_PX, STD, Projection, extract
from tests.train.two_processes import in_two_processes


def main() -> None:
    images, folder = Path(sys.argv[1]), Path(sys.argv[2])
    table = ImageTable.of(images, [f"{number:03d}.png" for number in range(COUNT)])

    def work(fabric: Fabric) -> None:
        file = extract(table, folder / "features", fabric)
        found = describe(Projection(), table, SIZE_PX, MEAN, STD, fabric, dim=DIM, batch_size=16)
        np.save(folder / f"described.{fabric.global_rank}.npy", found)
        ranking = search_features(np.nan_to_num(found[::10]), file, 6, fabric)
        np.savez(folder / f"ranking.{fabric.global_rank}.npz", rows=ranking.rows, similarities=ranking.similarities)

    in_two_processes(work)
    kill_and_continue(table, folder)


def kill_and_continue(table: ImageTable, folder: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=extract_until_killed, args=(table, folder))
    process.start()
    process.join()
    (folder / "killed.txt").write_text(str(process.exitcode))
    assert FeatureFile.open_existing(folder / "killed", complete=False).num_done == 64
    counting = CountingProjection()
    extract(table, folder / "killed", one_process(), counting)
    (folder / "read_again.txt").write_text(str(counting.images))


def extract_until_killed(table: ImageTable, folder: Path) -> None:
    class Killer(CountingProjection):
        def forward(self, images: Tensor) -> Tensor:
            if self.images + len(images) > 100:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().forward(images)

    extract(table, folder / "killed", one_process(), Killer())


class CountingProjection(Projection):
    images = 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return super().forward(images)


def one_process() -> Fabric:
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return fabric


if __name__ == "__main__":
    main()
