"""Which captions stand in which batch of which process: a function of (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from threeshnet.batches.order import Order, Shuffle
from threeshnet.errors import ConfigError, Problems


class CaptionBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, caption row); every process takes its slice of the same global batches.

    The epoch travels with the row because a data loader's workers outlive an epoch, and the augmentation of a caption
    depends on it. What does not fill the last batch is left out with `drop_last`, else shared out among the processes
    (or left out for all of them when it is less than one caption a process, so that none waits for another).

    >>> batches = CaptionBatches(np.array([0, 0, 1, 1, 1]), batch_size=2, drop_last=False)
    >>> [[row for _, row in batch] for batch in batches]
    [[2, 4], [3, 0], [1]]
    """

    def __init__(
        self,
        owners: np.ndarray | int,
        *,
        batch_size: int,
        seed: int = 0,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
        order: Order | None = None,
    ) -> None:
        """`owners` [captions]: the image of each caption; a number of captions stands for as many images.

        `batch_size` counts all processes' captions together; `order` is a perfect shuffle without one. Raises
        ConfigError for what cannot be dealt out.
        """
        self.owners = np.arange(owners, dtype=np.int32) if isinstance(owners, int) else owners
        self.captions = len(self.owners)
        _check(self.captions, batch_size, drop_last, seed, rank, world_size)
        self.batch_size, self.seed = batch_size, seed
        self.drop_last, self.order = drop_last, order or Shuffle()
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.first_batch = 0

    @property
    def sampler(self) -> CaptionBatches:
        """Itself: where Lightning looks for `set_epoch` of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; a new one starts at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.first_batch = epoch, 0

    def start_at(self, batch: int) -> None:
        """Leave out the first `batch` batches of this epoch and of no other: they were done before a resume."""
        if not 0 <= batch <= len(self):
            raise ConfigError(f"cannot start at batch {batch} of an epoch of {len(self)} batches")
        self.first_batch = batch

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever this one starts."""
        whole, rest = divmod(self.captions, self.batch_size)
        return whole + int(not self.drop_last and rest >= self.world_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        yield from ([(epoch, row) for row in rows.tolist()] for rows in self.shares())

    def shares(self) -> Iterator[np.ndarray]:
        """Caption rows of this process batch by batch, from the first batch that is to be done."""
        order = self.order(self.owners, seed=self.seed, epoch=self.epoch)
        for batch in range(self.first_batch, len(self)):
            rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield np.array_split(rows, self.world_size)[self.rank]

    @property
    def batches_of_a_window(self) -> int | None:
        """Batches in which the order mixes what it reads together; None where it does not say."""
        return None if self.order.window_captions is None else max(1, self.order.window_captions // self.batch_size)

    def identity(self) -> dict[str, int | str]:
        """What the batches of an epoch depend on, whichever process asks."""
        sizes = {"captions": self.captions, "batch_size": self.batch_size, "seed": self.seed}
        return sizes | self.order.identity()


class EveryItemOnce(Sampler[list[int]]):
    """Batches of item numbers for evaluation: each process takes every `world_size`-th, no item is repeated.

    >>> list(EveryItemOnce(5, batch_size=2, rank=1, world_size=2))
    [[1, 3]]
    """

    def __init__(
        self, items: int, *, batch_size: int, rank: int = 0, world_size: int = 1, order: np.ndarray | None = None
    ) -> None:
        """`order`: the item numbers in the order to deal them out (captions by length, say); ascending without."""
        mine = (np.arange(items) if order is None else order)[rank::world_size]
        self.batches: list[list[int]] = [
            mine[start : start + batch_size].tolist() for start in range(0, len(mine), batch_size)
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def _check(captions: int, batch_size: int, drop_last: bool, seed: int, rank: int, world_size: int) -> None:
    problems = Problems("training batches")
    if batch_size < 1:
        problems.add(f"batch_size={batch_size} must be at least 1")
    elif batch_size % world_size:
        problems.add(
            f"batch_size={batch_size} counts all processes and does not divide by {world_size}; "
            f"take {max(batch_size // world_size, 1) * world_size} or {(batch_size // world_size + 1) * world_size}"
        )
    elif captions < (batch_size if drop_last else world_size):
        problems.add(
            f"{captions} captions do not fill one batch: batch_size={batch_size}, processes={world_size}, "
            f"drop_last={drop_last}; take a smaller batch_size, drop_last=false or more photos"
        )
    if seed < 0:
        problems.add(f"seed={seed} must not be negative")
    if not 0 <= rank < world_size:
        problems.add(f"rank={rank} is not one of {world_size} processes")
    problems.raise_as(ConfigError)
