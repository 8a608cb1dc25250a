"""The order of an epoch, and its batches: every caption once, as a function of (seed, epoch) alone.

A perfect shuffle reads images at random places. Where random reads are slow, `BlockOrder` reads neighbouring images
together and shuffles their captions within a window.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from threeshnet.errors import ConfigError, Problems, one_of

ORDERS = ("shuffle", "blocks")


class Shuffle:
    """The perfect shuffle of the authors' recipe: all orders are equally likely.

    >>> Shuffle()(np.array([0, 0, 1, 1]), seed=0, epoch=0).tolist()
    [2, 0, 1, 3]
    """

    window_captions: int | None = None  # that are shuffled together; None for all

    def __call__(self, owners: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
        """Caption numbers [captions], each once; `owners` [captions] is the image of each caption."""
        return np.random.default_rng([seed, epoch]).permutation(len(owners))

    def identity(self) -> dict[str, int | str]:
        """Settings of the order, which a resumed run must share."""
        return {"order": "shuffle"}


class BlockOrder:
    """Blocks of neighbouring images in a random order, and their captions shuffled in windows of many blocks.

    Each image deals its captions to rounds at random, one caption a round. Each round cuts the images into blocks, and
    the blocks of all rounds are shuffled together. So two captions of one image share a batch as often as in a perfect
    shuffle, and an image is read once for each of its captions, beside its neighbours. A data set of at most one window
    gets a perfect shuffle.
    """

    def __init__(self, *, block_images: int = 32, window_captions: int = 4096) -> None:
        """Raises ConfigError for sizes below 1, and for a window smaller than a block."""
        problems = Problems("batches.order=blocks")
        if block_images < 1:
            problems.add(f"batches.block_images={block_images} must be at least 1")
        elif window_captions < block_images:
            problems.add(
                f"batches.window_captions={window_captions} is less than a block of batches.block_images={block_images}"
            )
        problems.raise_as(ConfigError, "A window holds many blocks, as 128 of them.")
        self.block_images = block_images
        self.window_captions = window_captions

    def __call__(self, owners: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
        """As `Shuffle`."""
        generator = np.random.default_rng([seed, epoch])
        if len(owners) <= self.window_captions:
            return generator.permutation(len(owners))
        blocks = self._blocks(owners, generator)
        order = np.argsort(generator.permutation(int(blocks.max()) + 1)[blocks], kind="stable")
        for start in range(0, len(order), self.window_captions):
            generator.shuffle(order[start : start + self.window_captions])
        return order

    def _blocks(self, owners: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Number of the block of each caption, [captions]: one for each round and block of images."""
        rounds = _dealt(owners, generator)
        # The offset differs by round and epoch: otherwise the same 32 images would always share a block.
        offsets = generator.integers(self.block_images, size=int(rounds.max()) + 1)
        in_round = (owners + offsets[rounds]) // self.block_images
        return rounds * (int(in_round.max()) + 1) + in_round

    def identity(self) -> dict[str, int | str]:
        return {"order": "blocks", "block_images": self.block_images, "window_captions": self.window_captions}


Order = Shuffle | BlockOrder


def make_order(name: str, *, block_images: int, window_captions: int) -> Order:
    """The order `shuffle` or `blocks` (with these sizes).  Raises ConfigError for another name."""
    if name == "shuffle":
        return Shuffle()
    if name == "blocks":
        return BlockOrder(block_images=block_images, window_captions=window_captions)
    raise ConfigError(one_of("batches.order", name, ORDERS))


def _dealt(owners: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Round of each caption, [captions]: the captions of one image get 0, 1, 2, … in a random order."""
    mixed = generator.permutation(len(owners))
    by_image = mixed[np.argsort(owners[mixed], kind="stable")]
    starts = np.flatnonzero(np.diff(owners[by_image], prepend=-1))
    rounds = np.empty(len(owners), dtype=np.int64)
    rounds[by_image] = np.arange(len(owners)) - np.repeat(starts, np.diff(starts, append=len(owners)))
    return rounds


class CaptionBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, caption row); every process takes its share of the same global batches.

    The epoch goes with the row because workers outlive an epoch, and the augmentation of a caption depends on both. An
    incomplete last batch is dropped with `drop_last`, and shared among the processes otherwise. It is dropped in any
    case when it has fewer captions than there are processes, so that no process waits for another.

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
        """`owners` [captions] is the image of each caption; a number n means n captions of n images.

        `batch_size` counts the captions of all processes together. The default `order` is a perfect shuffle. Raises
        ConfigError for sizes that do not divide among the processes or do not fill one batch.
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
        """Itself: Lightning calls `set_epoch` on the `sampler` of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; a new epoch starts at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.first_batch = epoch, 0

    def start_at(self, batch: int) -> None:
        """Skip the first `batch` batches of this epoch alone: they were done before a resume."""
        if not 0 <= batch <= len(self):
            raise ConfigError(f"cannot start at batch {batch} of an epoch of {len(self)} batches")
        self.first_batch = batch

    def __len__(self) -> int:
        """Batches of a whole epoch, also when this one starts later."""
        whole, rest = divmod(self.captions, self.batch_size)
        return whole + int(not self.drop_last and rest >= self.world_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        yield from ([(epoch, row) for row in rows.tolist()] for rows in self.shares())

    def shares(self) -> Iterator[np.ndarray]:
        """Caption rows of this process, batch by batch, from the first batch that is not done."""
        order = self.order(self.owners, seed=self.seed, epoch=self.epoch)
        for batch in range(self.first_batch, len(self)):
            rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield np.array_split(rows, self.world_size)[self.rank]

    @property
    def batches_of_a_window(self) -> int | None:
        """Batches of a window of the order; None for an order without windows."""
        return None if self.order.window_captions is None else max(1, self.order.window_captions // self.batch_size)

    def identity(self) -> dict[str, int | str]:
        """Settings that the batches of an epoch depend on, equal in all processes."""
        sizes = {"captions": self.captions, "batch_size": self.batch_size, "seed": self.seed}
        return sizes | self.order.identity()


class EveryItemOnce(Sampler[list[int]]):
    """Batches of item numbers for evaluation: each process takes every `world_size`-th item, and none repeats.

    >>> list(EveryItemOnce(5, batch_size=2, rank=1, world_size=2))
    [[1, 3]]
    """

    def __init__(
        self, items: int, *, batch_size: int, rank: int = 0, world_size: int = 1, order: np.ndarray | None = None
    ) -> None:
        """`order` [items]: the item numbers in the order to deal them out; ascending by default."""
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
