"""Recalls as the mean over consecutive parts of a split."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from threeshnet.errors import DataError
from threeshnet.metrics.ranks import Ranks, check_owner, rank_similarity
from threeshnet.metrics.recalls import DirectionRecall, Recall, recall_of_ranks, with_sum
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


def fold_ranks(similarity: SimilarityLike, owner: Tensor | np.ndarray, *, folds: int = 5) -> Ranks:
    """Ranks of every image and caption within its own fold, in the order of the split.

    >>> fold_ranks(torch.tensor([[0.1, 0.9], [0.9, 0.1]]), torch.arange(2), folds=2)
    Ranks(i2t=tensor([1, 1]), t2i=tensor([1, 1]))
    """
    source = as_similarity(similarity)
    owners = check_owner(owner, source.images, source.captions)
    found = Ranks(torch.zeros(source.images).long(), torch.zeros(source.captions).long())
    for fold in consecutive_folds(source.images, owners, folds):
        part = rank_similarity(source.part(fold.images, fold.captions), fold.owner)
        found.i2t[fold.images], found.t2i[fold.captions] = part.i2t, part.t2i
    return found


def mean_of_folds(ranks: Ranks, owner: Tensor | np.ndarray, *, folds: int = 5) -> Recall:
    """Mean of the recalls of consecutive folds, from the ranks within each."""
    parts = consecutive_folds(len(ranks.i2t), owner, folds)
    return mean_recall([recall_of_ranks(Ranks(ranks.i2t[fold.images], ranks.t2i[fold.captions])) for fold in parts])


def fold_mean(similarity: SimilarityLike, owner: Tensor | np.ndarray, *, folds: int = 5) -> Recall:
    """Mean of the recalls (and of the median and mean ranks) of consecutive folds, each ranked by itself.

    >>> fold_mean(torch.eye(4), torch.arange(4), folds=2)["rsum"]
    600.0
    """
    return mean_of_folds(fold_ranks(similarity, owner, folds=folds), owner, folds=folds)


def mean_recall(recalls: list[Recall]) -> Recall:
    """Mean of each number; the sum is that of the means."""
    return with_sum(_mean([one["i2t"] for one in recalls]), _mean([one["t2i"] for one in recalls]))


def _mean(sides: list[DirectionRecall]) -> DirectionRecall:
    return {name: float(np.mean([side[name] for side in sides])) for name in sides[0]}
