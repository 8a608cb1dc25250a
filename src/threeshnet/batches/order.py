"""The order of an epoch: every caption once, as a function of (seed, epoch) alone.

A perfect shuffle reads one image here and one there. Where the disk is slower than the training, neighbours are to be
read together: `BlockOrder` keeps them so and mixes what was read.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from threeshnet.errors import ConfigError, Problems, one_of

ORDERS = ("shuffle", "blocks")


class Order(Protocol):
    """What a sampler asks: the captions of an epoch, and what tells this order from others."""

    @property
    def window_captions(self) -> int | None:
        """Captions among which neighbours are spread; None where there are no such windows."""
        ...

    def __call__(self, owners: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
        """Caption numbers [captions], each once; `owners` [captions] says the image of each."""
        ...

    def identity(self) -> dict[str, int | str]:
        """What the order depends on beside the captions, the seed and the epoch: a resumed run must have the same."""
        ...


class Shuffle:
    """The perfect shuffle of the authors' recipe: any order is as likely as any other.

    >>> Shuffle()(np.array([0, 0, 1, 1]), seed=0, epoch=0).tolist()
    [2, 0, 1, 3]
    """

    window_captions: int | None = None

    def __call__(self, owners: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(len(owners))

    def identity(self) -> dict[str, int | str]:
        return {"order": "shuffle"}


class BlockOrder:
    """Blocks of neighbouring images in a random order, and their captions shuffled in windows of many blocks.

    Each image deals its captions to rounds at random, one a round, so a block is met once for each of them and brings
    one caption of each image. The blocks of all rounds are shuffled together: where the captions of one image come in
    the epoch is as random as in a perfect shuffle, and so is, on average, how often two of them share a batch. An image
    is read once for each of its captions, beside its neighbours. A set of no more captions than a window gets a perfect
    shuffle.
    """

    def __init__(self, *, block_images: int = 32, window_captions: int = 4096) -> None:
        """Raises ConfigError for sizes below 1, and for a window that is less than a block."""
        problems = Problems("batches.order=blocks")
        if block_images < 1:
            problems.add(f"batches.block_images={block_images} must be at least 1")
        elif window_captions < block_images:
            problems.add(
                f"batches.window_captions={window_captions} is less than a block of batches.block_images={block_images}"
            )
        problems.raise_as(ConfigError, "A window mixes many blocks: 128 of them, say.")
        self.block_images = block_images
        self.window_captions: int | None = window_captions
        self.window = window_captions

    def __call__(self, owners: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
        generator = np.random.default_rng([seed, epoch])
        if len(owners) <= self.window:
            return generator.permutation(len(owners))
        blocks = self._blocks(owners, generator)
        order = np.argsort(generator.permutation(int(blocks.max()) + 1)[blocks], kind="stable")
        for start in range(0, len(order), self.window):
            generator.shuffle(order[start : start + self.window])
        return order

    def _blocks(self, owners: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Number of the block that each caption comes with, [captions]; equal where image block and round are."""
        rounds = _dealt(owners, generator)
        # Blocks begin elsewhere in every round and epoch, so that neighbours are not the same 32 for ever.
        offsets = generator.integers(self.block_images, size=int(rounds.max()) + 1)
        in_round = (owners + offsets[rounds]) // self.block_images
        return rounds * (int(in_round.max()) + 1) + in_round

    def identity(self) -> dict[str, int | str]:
        return {"order": "blocks", "block_images": self.block_images, "window_captions": self.window}


def make_order(name: str, *, block_images: int, window_captions: int) -> Order:
    """The order of that name; the sizes are those of `blocks`.  Raises ConfigError for another name."""
    if name == "shuffle":
        return Shuffle()
    if name == "blocks":
        return BlockOrder(block_images=block_images, window_captions=window_captions)
    raise ConfigError(one_of("batches.order", name, ORDERS))


def _dealt(owners: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Round of each caption, [captions]: those of one image get 0, 1, 2, … in a random order."""
    mixed = generator.permutation(len(owners))
    by_image = mixed[np.argsort(owners[mixed], kind="stable")]
    starts = np.flatnonzero(np.diff(owners[by_image], prepend=-1))
    rounds = np.empty(len(owners), dtype=np.int64)
    rounds[by_image] = np.arange(len(owners)) - np.repeat(starts, np.diff(starts, append=len(owners)))
    return rounds
