"""Recall at 1, 5 and 10 and the ranks behind it, as plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from torch import Tensor

from threeshnet.errors import DataError
from threeshnet.metrics.ranks import Ranks, rank_similarity
from threeshnet.metrics.similarity import SimilarityLike

CUTOFFS = (1, 5, 10)
DirectionRecall = dict[str, float]  # R@1, R@5, R@10 in percent, median_rank, mean_rank


class Recall(TypedDict):
    """Both directions and the sum of their six recalls."""

    i2t: DirectionRecall
    t2i: DirectionRecall
    rsum: float


def recall(similarity: SimilarityLike, owner: Tensor | np.ndarray) -> Recall:
    """Recalls of a [images, captions] matrix; `owner` [captions] is the image of each.

    >>> import torch
    >>> found = recall(torch.tensor([[0.9, 0.1, 0.3], [0.2, 0.1, 0.8]]), torch.tensor([0, 0, 1]))
    >>> found["i2t"]["R@1"], round(found["t2i"]["R@1"], 1), found["t2i"]["median_rank"]
    (100.0, 66.7, 1.0)
    """
    return recall_of_ranks(rank_similarity(similarity, owner))


def recall_of_ranks(ranks: Ranks) -> Recall:
    """Recalls of ranks that are known already."""
    return with_sum(summarise(ranks.i2t), summarise(ranks.t2i))


def with_sum(i2t: DirectionRecall, t2i: DirectionRecall) -> Recall:
    """Both directions with the sum of their recalls."""
    names = [f"R@{cutoff}" for cutoff in CUTOFFS]
    return {"i2t": i2t, "t2i": t2i, "rsum": float(sum(side[name] for side in (i2t, t2i) for name in names))}


def summarise(ranks: Tensor) -> DirectionRecall:
    """Percent of queries [Q] whose rank (from 1) is within each cutoff, and the middle and mean rank.

    The middle of an even number of ranks is rounded down, as in the published evaluations.
    """
    places = ranks.cpu().numpy() - 1
    if not len(places):
        raise DataError("no query has a rank: nothing to summarise")
    found = {f"R@{cutoff}": 100.0 * int((places < cutoff).sum()) / len(places) for cutoff in CUTOFFS}
    return found | {"median_rank": float(np.floor(np.median(places)) + 1), "mean_rank": float(places.mean() + 1)}


def recall_by_tag(ranks: Tensor, tags: Sequence[str]) -> dict[str, DirectionRecall]:
    """The same for the queries of each tag, with their count as `queries`; queries without a tag are left out.

    >>> import torch
    >>> recall_by_tag(torch.tensor([1, 9, 2]), ["what", "where", "what"])["what"]["R@1"]
    50.0
    """
    if len(tags) != len(ranks):
        raise DataError(f"{len(tags)} tags for {len(ranks)} queries; each query has one tag (or an empty one)")
    labels = np.array(tags, dtype=object)
    return {
        tag: {"queries": float((labels == tag).sum())} | summarise(ranks[labels == tag])
        for tag in sorted(set(tags))
        if tag
    }
