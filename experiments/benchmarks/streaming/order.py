"""How far orders are from a perfect shuffle: python -m experiments.benchmarks.streaming.order [--batch 256].

Everything is measured on orders alone, no data is read. A second perfect shuffle (another seed) shows what is chance.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from threeshnet.batches.order import BlockOrder, Shuffle

from .tables import rewrite

CAPTIONS = 5
BLOCK = 32
READS = 16_384
EPOCHS = 2
HERE = Path(__file__).parent
Ordered = Callable[[int], np.ndarray]  # epoch -> captions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=113_287, help="of COCO's training split")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    owners = np.repeat(np.arange(given.images, dtype=np.int32), CAPTIONS)
    perfect: Ordered = lambda epoch: Shuffle()(owners, seed=0, epoch=epoch)  # noqa: E731
    expected = distances(perfect, owners, given.batch)
    found = {"perfect shuffle": measures(perfect, owners, given.batch, expected)}
    found["perfect shuffle, seed 1"] = measures(
        lambda e: Shuffle()(owners, seed=1, epoch=e), owners, given.batch, expected
    )
    for block, window in ((32, 2048), (32, 4096), (32, 16384), (128, 16384), (1000, 16384)):
        order = BlockOrder(block_images=block, window_captions=window)
        name = f"blocks of {block}, windows of {window:,}"
        found[name] = measures(lambda e, order=order: order(owners, seed=0, epoch=e), owners, given.batch, expected)
    (given.out / "order.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    rewrite(given.out)


def measures(order: Ordered, owners: np.ndarray, batch: int, expected: np.ndarray) -> dict[str, float]:
    """Numbers of some epochs, each named as its column."""
    epochs = [owners[order(epoch)] for epoch in range(EPOCHS)]
    whole = [images[: len(images) // batch * batch].reshape(-1, batch) for images in epochs]
    places = np.arange(len(owners))
    return {
        "pairs of one image in a batch": float(np.mean([same_pairs(images) for images in whole])),
        f"percent of pairs within {BLOCK} images": float(np.mean([100 * neighbours(images) for images in whole])),
        "spread of batch means": float(np.mean([spread(images) for images in whole])),
        "KS distance of pair distances": kolmogorov(distances(order, owners, batch), expected),
        "rank correlation with the source": float(
            np.mean([abs(np.corrcoef(places, images)[0, 1]) for images in epochs])
        ),
        f"runs of images in {READS:,} reads": float(np.mean([runs(images) for images in epochs])),
    }


def same_pairs(batches: np.ndarray) -> float:
    """Pairs of captions of one image in a batch, on average."""
    ordered = np.sort(batches, axis=1)
    total = 0
    for shift in range(1, CAPTIONS):  # equal neighbours after sorting: a run of k has k-1 pairs at 1, k-2 at 2, …
        total += int((ordered[:, shift:] == ordered[:, :-shift]).sum())
    return total / len(batches)


def neighbours(batches: np.ndarray) -> float:
    """Share of the pairs of a batch whose images stand within a block's length of each other in the source."""
    ordered = np.sort(batches, axis=1)
    near = [np.searchsorted(row, row + BLOCK, side="left") - np.arange(1, len(row) + 1) for row in ordered]
    size = batches.shape[1]
    return float(np.mean([counts.sum() for counts in near]) / (size * (size - 1) / 2))


def spread(batches: np.ndarray) -> float:
    """Variance of the batches' mean place in the source, in units of what independent draws give: 1 is perfect.

    The worst case: a property that runs through the source from its first image to its last.
    """
    return float(batches.mean(axis=1).var() / (batches.var() / batches.shape[1]))


def distances(order: Ordered, owners: np.ndarray, batch: int) -> np.ndarray:
    """Distances in the source between neighbours in a batch, sorted."""
    images = owners[order(0)].astype(np.int64)
    inside = np.arange(1, len(images)) % batch != 0
    return np.sort(np.abs(np.diff(images))[inside])


def kolmogorov(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference of two distributions, given sorted samples."""
    both = np.unique(np.concatenate([one, other]))
    shares = [np.searchsorted(sample, both, side="right") / len(sample) for sample in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def runs(images: np.ndarray) -> float:
    """Stretches of neighbouring images that so many reads in a row make, on average: what a disk sees."""
    parts = [np.unique(images[start : start + READS]) for start in range(0, len(images) - READS + 1, READS)]
    return float(np.mean([1 + (np.diff(part) > 1).sum() for part in parts]))


if __name__ == "__main__":
    main()
