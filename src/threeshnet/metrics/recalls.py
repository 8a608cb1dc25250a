"""Recall at 1, 5 and 10, median and mean rank, of a whole split or as the mean over folds."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor

from threeshnet.errors import DataError
from threeshnet.metrics.ranks import Ranks, check_owner, rank_similarity
from threeshnet.metrics.similarity import SimilarityLike, as_similarity

CUTOFFS = (1, 5, 10)
DirectionRecall = dict[str, float]  # R@1, R@5, R@10 in percent, median_rank, mean_rank


class Recall(TypedDict):
    """Both directions and the sum of their six recalls."""

    i2t: DirectionRecall
    t2i: DirectionRecall
    rsum: float


def recall(similarity: SimilarityLike, owner: Tensor | np.ndarray) -> Recall:
    """Recalls of an [images, captions] matrix or another source; `owner` [captions] is the image of each caption.

    Raises DataError for owners that do not fit, images without a caption and similarities that are not numbers.

    >>> result = recall(torch.tensor([[0.9, 0.1, 0.3], [0.2, 0.1, 0.8]]), torch.tensor([0, 0, 1]))
    >>> result["i2t"]["R@1"], round(result["t2i"]["R@1"], 1), result["t2i"]["median_rank"]
    (100.0, 66.7, 1.0)
    """
    return recall_of_ranks(rank_similarity(similarity, owner))


def recall_of_ranks(ranks: Ranks) -> Recall:
    """Recalls from ranks."""
    return with_sum(summarise(ranks.i2t), summarise(ranks.t2i))


def with_sum(i2t: DirectionRecall, t2i: DirectionRecall) -> Recall:
    """Both directions with the sum of their recalls."""
    names = [f"R@{cutoff}" for cutoff in CUTOFFS]
    return {"i2t": i2t, "t2i": t2i, "rsum": float(sum(side[name] for side in (i2t, t2i) for name in names))}


def summarise(ranks: Tensor) -> DirectionRecall:
    """Percent of queries whose rank [Q] (from 1) is within each cutoff, and the median and mean rank.

    The median of an even number of ranks is rounded down, as in the published evaluations. Raises DataError without
    ranks.
    """
    above = ranks.cpu().numpy() - 1  # items ranked above the right one
    if not len(above):
        raise DataError("no query has a rank: nothing to summarise")
    result = {f"R@{cutoff}": 100.0 * int((above < cutoff).sum()) / len(above) for cutoff in CUTOFFS}
    return result | {"median_rank": float(np.floor(np.median(above)) + 1), "mean_rank": float(above.mean() + 1)}


class Fold(NamedTuple):
    """Consecutive images of a split, and all their captions."""

    images: Tensor  # [g] int64, numbers in the split
    captions: Tensor  # [q] int64, numbers in the split
    owner: Tensor  # [q] int64, index of each caption's image in `images`


def consecutive_folds(images: int, owner: Tensor | np.ndarray, folds: int) -> list[Fold]:
    """Folds of equally many images in their order.  Raises DataError when the images do not divide."""
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
    result = Ranks(torch.zeros(source.images).long(), torch.zeros(source.captions).long())
    for fold in consecutive_folds(source.images, owners, folds):
        part = rank_similarity(source.part(fold.images, fold.captions), fold.owner)
        result.i2t[fold.images], result.t2i[fold.captions] = part.i2t, part.t2i
    return result


def mean_of_folds(ranks: Ranks, owner: Tensor | np.ndarray, *, folds: int = 5) -> Recall:
    """Mean of each number over consecutive folds, from the ranks within each; `rsum` is the sum of the means."""
    parts = consecutive_folds(len(ranks.i2t), owner, folds)
    recalls = [recall_of_ranks(Ranks(ranks.i2t[fold.images], ranks.t2i[fold.captions])) for fold in parts]
    return with_sum(_mean([each["i2t"] for each in recalls]), _mean([each["t2i"] for each in recalls]))


def _mean(sides: list[DirectionRecall]) -> DirectionRecall:
    return {name: float(np.mean([side[name] for side in sides])) for name in sides[0]}
