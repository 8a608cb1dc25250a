"""The order of an epoch: each caption once, neighbours together, mixed as well as it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threeshnet.batches.order import ORDERS, BlockOrder, Order, Shuffle, make_order
from threeshnet.errors import ConfigError

counts = st.lists(st.integers(0, 7), min_size=1, max_size=60)  # captions of each image


def owners_of(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts), dtype=np.int32), counts)


def pairs_of_one_image(order: Order, owners: np.ndarray, *, batch: int, epochs: int) -> float:
    """Pairs of captions of one image in a batch, the mean over all batches of some epochs."""
    found = []
    for epoch in range(epochs):
        images = owners[order(owners, seed=1, epoch=epoch)]
        for start in range(0, len(images) - batch + 1, batch):
            together = np.unique(images[start : start + batch], return_counts=True)[1]
            found.append((together * (together - 1) // 2).sum())
    return float(np.mean(found))


@settings(max_examples=40)
@given(counts=counts, block=st.integers(1, 9), more=st.integers(0, 40), seed=st.integers(0, 3))
def test_every_caption_once_however_many_an_image_has(counts: list[int], block: int, more: int, seed: int) -> None:
    owners = owners_of(counts)
    mixed = np.random.default_rng(seed).permutation(owners)  # captions need not stand by their image's number
    order = BlockOrder(block_images=block, window_captions=block + more)
    for asked in (owners, mixed):
        found = order(asked, seed=seed, epoch=2)
        assert sorted(found.tolist()) == list(range(len(asked)))
        assert np.array_equal(found, order(asked, seed=seed, epoch=2))


def test_epochs_and_seeds_differ() -> None:
    owners, order = owners_of([5] * 40), BlockOrder(block_images=4, window_captions=32)
    found = {tuple(order(owners, seed=seed, epoch=epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(found) == 9


def test_a_window_holds_whole_blocks_of_neighbours() -> None:
    owners, block, window = owners_of([5] * 200), 10, 100
    images = owners[BlockOrder(block_images=block, window_captions=window)(owners, seed=0, epoch=0)]
    runs = []
    for start in range(0, len(images), window):
        read = np.unique(images[start : start + window])
        runs.append(1 + int((np.diff(read) > 1).sum()))
    perfect = owners[Shuffle()(owners, seed=0, epoch=0)][:window]
    assert max(runs) <= window // block + 6  # the first and last block of a round are short, and edges cut two
    assert (np.diff(np.unique(perfect)) > 1).sum() > 2 * max(runs)
    assert (np.diff(images[:window]) != 1).sum() > window // 2  # and within a window they are mixed


def test_a_set_no_larger_than_a_window_is_shuffled_perfectly() -> None:
    owners = owners_of([5] * 20)
    blocks, perfect = BlockOrder(block_images=10, window_captions=100), Shuffle()
    assert np.array_equal(blocks(owners, seed=3, epoch=1), perfect(owners, seed=3, epoch=1))


def test_captions_of_one_image_meet_as_often_as_in_a_perfect_shuffle() -> None:
    owners = owners_of([5] * 400)
    expected = pairs_of_one_image(Shuffle(), owners, batch=20, epochs=30)
    found = pairs_of_one_image(BlockOrder(block_images=8, window_captions=200), owners, batch=20, epochs=30)
    assert expected == pytest.approx(20 * 19 / 2 * 4 / 1999, rel=0.1)  # so many of all pairs are of one image
    assert found == pytest.approx(expected, rel=0.25)


def test_each_caption_comes_early_as_often_as_late() -> None:
    owners, order = owners_of([3] * 60), BlockOrder(block_images=5, window_captions=30)
    places = np.array([np.argsort(order(owners, seed=0, epoch=epoch)) for epoch in range(200)])
    middle = (len(owners) - 1) / 2
    spread = len(owners) / np.sqrt(12 * len(places))  # of the mean of so many uniform places
    assert np.abs(places.mean(axis=0) - middle).max() < 4.5 * spread


def test_orders_are_named_and_impossible_ones_refused() -> None:
    names = {name: make_order(name, block_images=4, window_captions=9).identity() for name in ORDERS}
    assert names["shuffle"] == {"order": "shuffle"}
    assert names["blocks"] == {"order": "blocks", "block_images": 4, "window_captions": 9}
    with pytest.raises(ConfigError, match=r"batches.order='block' does not exist; there are: shuffle, blocks"):
        make_order("block", block_images=1, window_captions=1)
    with pytest.raises(ConfigError, match=r"window_captions=3 is less than a block of batches.block_images=4"):
        BlockOrder(block_images=4, window_captions=3)
    with pytest.raises(ConfigError, match="block_images=0"):
        BlockOrder(block_images=0)
