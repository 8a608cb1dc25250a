"""Confidence intervals of recalls: the percentile bootstrap over images (Efron and Tibshirani, 1993).

Each draw takes images with replacement, and the captions of an image go with it because they are not independent. Ranks
are not computed again: the gallery is the same in every draw, and the queries vary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from threeshnet.errors import ConfigError
from threeshnet.metrics.ranks import Ranks, check_owner
from threeshnet.metrics.recalls import CUTOFFS, consecutive_folds

LEVEL = 0.95
DRAWS = 2_000
CELLS = 1 << 24  # numbers drawn at once
NAMES = tuple(f"{side} R@{cutoff}" for side in ("i2t", "t2i") for cutoff in CUTOFFS)  # columns; rsum follows


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Whether `value` is outside."""
        return not self.low <= value <= self.high


class Hits(NamedTuple):
    """Hits of each image of a fold, from which its recalls are computed."""

    hits: np.ndarray  # [G, 6] float64: hits of the image and of its captions, at each cutoff
    captions: np.ndarray  # [G] float64, number of captions


def bootstrap_recalls(
    ranks: Ranks, owner: Tensor | np.ndarray, *, folds: int = 1, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> dict[str, Any]:
    """Percentile intervals [low, high] in percent for i2t and t2i R@1, R@5, R@10 and for rsum, as plain lists.

    With `folds`, images are drawn within their fold and recalls are averaged over folds. Raises ConfigError for a level
    outside (0, 1) or fewer than 2 draws.

    >>> import torch
    >>> bootstrap_recalls(Ranks(torch.ones(3).long(), torch.ones(6).long()), torch.arange(6) % 3)["rsum"]
    [600.0, 600.0]
    """
    drawn = drawn_recalls(ranks, owner, folds=folds, draws=draws, seed=seed)
    return nested(percentiles(drawn, level)) | {"level": level, "draws": draws, "seed": seed, "unit": "image"}


def drawn_recalls(
    ranks: Ranks, owner: Tensor | np.ndarray, *, folds: int = 1, draws: int = DRAWS, seed: int = 0
) -> np.ndarray:
    """Recalls of every draw, [draws, 7]: the columns NAMES and rsum. Equal seeds draw equal images."""
    if draws < 2:
        raise ConfigError(f"draws={draws}: at least 2, and some 1,000 for an interval")
    generator = np.random.default_rng(seed)
    parts = [
        np.concatenate([_recalls(weights, hits) for weights in _weights(len(hits.captions), draws, generator)])
        for hits in hits_by_fold(ranks, owner, folds)
    ]
    return np.mean(parts, axis=0)


def hits_by_fold(ranks: Ranks, owner: Tensor | np.ndarray, folds: int = 1) -> list[Hits]:
    """Hits of each image, fold by fold.  Raises DataError for ranks that do not fit the owners."""
    images, captions = len(ranks.i2t), len(ranks.t2i)
    owners = check_owner(owner, images, captions)
    return [
        _hits(Ranks(ranks.i2t[fold.images], ranks.t2i[fold.captions]), fold.owner)
        for fold in consecutive_folds(images, owners, folds)
    ]


def percentiles(drawn: np.ndarray, level: float = LEVEL) -> list[Interval]:
    """The central interval of probability `level` of each column of [draws, columns]."""
    if not 0 < level < 1:
        raise ConfigError(f"level={level}: expected a share between 0 and 1, as 0.95")
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return [Interval(float(one), float(other)) for one, other in zip(low, high, strict=True)]


def nested(intervals: list[Interval]) -> dict[str, Any]:
    """Intervals of the seven columns, in the form of metrics.json."""
    sides: dict[str, Any] = {"i2t": {}, "t2i": {}}
    for name, interval in zip(NAMES, intervals, strict=False):
        side, number = name.split()
        sides[side][number] = list(interval)
    return sides | {"rsum": list(intervals[len(NAMES)])}


def with_rsum(recalls: np.ndarray) -> np.ndarray:
    """[draws, 6] and their sum as a seventh column."""
    return np.concatenate([recalls, recalls.sum(axis=1, keepdims=True)], axis=1)


def _hits(ranks: Ranks, owner: Tensor) -> Hits:
    owners = owner.numpy()
    images = len(ranks.i2t)
    own = [(ranks.i2t.numpy() <= cutoff).astype(np.float64) for cutoff in CUTOFFS]
    captions = [np.bincount(owners[ranks.t2i.numpy() <= cutoff], minlength=images).astype(float) for cutoff in CUTOFFS]
    return Hits(np.stack([*own, *captions], axis=1), np.bincount(owners, minlength=images).astype(np.float64))


def _recalls(weights: np.ndarray, hits: Hits) -> np.ndarray:
    """Recalls [draws, 7] of images with `weights` [draws, G]."""
    total, half = weights @ hits.hits, len(CUTOFFS)
    i2t = total[:, :half] / weights.sum(axis=1, keepdims=True)
    t2i = total[:, half:] / (weights @ hits.captions)[:, None]
    return with_rsum(100.0 * np.concatenate([i2t, t2i], axis=1))


def _weights(images: int, draws: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Number of times that each image is drawn, [some draws, images] at a time; each draw takes `images` images."""
    size = max(CELLS // images, 1)
    for start in range(0, draws, size):
        count = min(size, draws - start)
        drawn = generator.integers(images, size=(count, images)) + images * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images).astype(np.float64)
