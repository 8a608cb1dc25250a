"""Recalls as the mean over consecutive parts of a split."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from threeshnet.errors import DataError
from threeshnet.metrics.ranks import check_owner
from threeshnet.metrics.recalls import DirectionRecall, Recall, recall, with_sum
from threeshnet.metrics.similarity import SimilarityLike, as_similarity


class Fold(NamedTuple):
    """Some images of a split and all their captions."""

    images: Tensor  # [g] int64, numbers in the split
    captions: Tensor  # [q] int64, numbers in the split
    owner: Tensor  # [q] int64, place of each caption's image in `images`


def consecutive_folds(images: int, owner: Tensor | np.ndarray, folds: int) -> list[Fold]:
    """Folds of equally many images in their order; raises DataError when they do not come out even."""
    owners = torch.as_tensor(owner).long()
    if folds < 1 or images % folds:
        raise DataError(f"{images} images do not make {folds} equal folds")
    size = images // folds
    result = []
    for start in range(0, images, size):
        captions = torch.nonzero((owners >= start) & (owners < start + size)).flatten()
        result.append(Fold(torch.arange(start, start + size), captions, owners[captions] - start))
    return result


def fold_mean(similarity: SimilarityLike, owner: Tensor | np.ndarray, *, folds: int = 5) -> Recall:
    """Mean of the recalls (and of the median and mean ranks) of consecutive folds, each ranked by itself.

    >>> fold_mean(torch.eye(4), torch.arange(4), folds=2)["rsum"]
    600.0
    """
    source = as_similarity(similarity)
    owners = check_owner(owner, source.images, source.captions)
    parts = consecutive_folds(source.images, owners, folds)
    return mean_recall([recall(source.part(fold.images, fold.captions), fold.owner) for fold in parts])


def mean_recall(recalls: list[Recall]) -> Recall:
    """Mean of each number; the sum is that of the means."""
    return with_sum(_mean([one["i2t"] for one in recalls]), _mean([one["t2i"] for one in recalls]))


def _mean(sides: list[DirectionRecall]) -> DirectionRecall:
    return {name: float(np.mean([side[name] for side in sides])) for name in sides[0]}
