"""Which images make a batch: a function of seed, epoch, group and iteration, never of a generator that runs on.

A run that resumes, and each of several processes, can thus ask for any batch and gets the same one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from progeo_edge.errors import InputError
from progeo_train.data.place_groups import PlaceGroups

_CLASSES, _MEMBERS = 0, 1
_KEPT_PASSES = 2  # a batch that ends one pass begins the next


class Draw(NamedTuple):
    """One image of a batch.

    Attributes:
        label: Its class within the group, 0..num_classes - 1.
        row: Its row in the image table.
        sample: Its index in the global batch, whichever process reads it.
    """

    label: int
    row: int
    sample: int


class ClassDraws:
    """Batches of one epoch over one group of places.

    The classes are passed through in permuted order, each pass with a permutation of its own, so that every class
    comes equally often; batches cut the endless series of passes into pieces, and one may reach into the next pass.
    Each time, `images_per_class` images of the class are drawn uniformly, distinct while the class has enough.
    """

    def __init__(
        self, groups: PlaceGroups, group: int, seed: int, epoch: int, batch_size: int, images_per_class: int = 1
    ) -> None:
        """Prepare the draws of an epoch.

        Args:
            groups: The places.
            group: The group of this epoch.
            seed: Of the run.
            epoch: Epochs draw independently of each other.
            batch_size: Images of the global batch, over all processes.
            images_per_class: Images of a class that stand side by side in the batch.

        Raises:
            InputError: a batch that does not hold whole classes.
        """
        if batch_size < 1 or images_per_class < 1 or batch_size % images_per_class:
            raise InputError(
                f"a batch of {batch_size} images does not hold {images_per_class} of each class; "
                "make batch_size a multiple of images_per_class"
            )
        self.groups = groups
        self.group = group
        self.num_classes = groups.num_classes(group)
        self.batch_size = batch_size
        self.images_per_class = images_per_class
        self._seed, self._epoch = seed, epoch
        first = int(groups.group_start[group])
        self._class_start = groups.class_start[first : first + self.num_classes + 1]
        self._passes: dict[int, NDArray[np.int64]] = {}

    def batch(self, iteration: int) -> list[Draw]:
        """The images of one iteration, in the order of the global batch: `batch_size` draws."""
        labels = self._labels(iteration)
        rows = self.groups.member_rows[self._members(iteration, labels)]
        repeated = np.repeat(labels, self.images_per_class)
        return [
            Draw(label, row, sample)
            for sample, (label, row) in enumerate(zip(repeated.tolist(), rows.tolist(), strict=True))
        ]

    def _labels(self, iteration: int) -> NDArray[np.int64]:
        """(batch_size / images_per_class,) classes: the next piece of the endless series of passes."""
        count = self.batch_size // self.images_per_class
        pieces = []
        position, end = iteration * count, (iteration + 1) * count
        while position < end:
            number, offset = divmod(position, self.num_classes)
            piece = self._pass(number)[offset : offset + end - position]
            pieces.append(piece)
            position += len(piece)
        return np.concatenate(pieces)

    def _pass(self, number: int) -> NDArray[np.int64]:
        if number not in self._passes:
            while len(self._passes) >= _KEPT_PASSES:
                del self._passes[next(iter(self._passes))]
            self._passes[number] = self._generator(_CLASSES, number).permutation(self.num_classes)
        return self._passes[number]

    def _members(self, iteration: int, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """(batch_size,) positions in `groups.member_rows`."""
        generator = self._generator(_MEMBERS, iteration)
        starts = self._class_start[labels]
        sizes = self._class_start[labels + 1] - starts
        if self.images_per_class == 1:
            return starts + generator.integers(0, sizes)
        chosen = [_choose(generator, size, self.images_per_class) for size in sizes.tolist()]
        return np.repeat(starts, self.images_per_class) + np.concatenate(chosen)

    def _generator(self, purpose: int, number: int) -> np.random.Generator:
        key = np.random.SeedSequence(self._seed, spawn_key=(self._epoch, self.group, purpose, number))
        return np.random.Generator(np.random.Philox(key))


def _choose(generator: np.random.Generator, size: int, count: int) -> NDArray[np.int64]:
    """`count` of 0..size-1, uniformly; each comes once before any comes again."""
    rounds = [generator.choice(size, min(size, count - done), replace=False) for done in range(0, count, size)]
    return np.concatenate(rounds)
