"""Hubness: some items are among the k nearest of far too many queries, and others of none.

The k-occurrence N_k(x) of an item is the number of queries that have x among their k nearest items. Hubness is the
skewness of N_k (Radovanovic, Nanopoulos and Ivanovic, "Hubs in Space", JMLR 11, 2010).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from threeshnet.errors import ConfigError, DataError
from threeshnet.metrics.precision import Rows, blocks, caption_rows, image_rows
from threeshnet.metrics.similarity import SimilarityLike, as_similarity

NEAREST = 10
ROUNDING = 1e-9  # relative: sums of shares such as 1/3 over a million queries are equal to 1e-10


def k_occurrence(rows: Rows, queries: int, items: int, *, k: int = NEAREST) -> Tensor:
    """The k-occurrence of each item, [items] float64; it sums to k times the queries.

    Items that tie with the k-th share the remaining ranks equally, which is the mean over all orders of the items.
    Otherwise the order of the gallery would make one of two equal items a hub. Raises ConfigError for a `k` outside 1
    to `items`, and DataError for NaN.

    >>> k_occurrence(lambda start, stop: torch.tensor([[0.9, 0.1], [0.5, 0.5]])[start:stop], 2, 2, k=1).tolist()
    [1.5, 0.5]
    """
    if not 1 <= k <= items:
        raise ConfigError(f"k={k}: expected a number of nearest items, 1 to {items}")
    counts = torch.zeros(items, dtype=torch.float64)
    for _, block in blocks(rows, queries, items):
        counts += _shares(block, k).sum(dim=0).cpu()
    return counts


def _shares(block: Tensor, k: int) -> Tensor:
    """Share of each item among each query's k nearest, [queries, items] float64: 1, 0, or less than 1 for ties."""
    nearest = block.topk(k, dim=1).values
    if torch.isnan(nearest).any():  # topk takes NaN for the largest
        raise DataError("similarities hold NaN: no item is the nearest; look for embeddings that are not finite")
    last = nearest[:, -1:]
    nearer, tied = (block > last).double(), (block == last).double()
    left = k - nearer.sum(dim=1, keepdim=True)
    return nearer + tied * (left / tied.sum(dim=1, keepdim=True))


def skewness(counts: Tensor | np.ndarray) -> float:
    """Third central moment over the cube of the standard deviation; 0 when all are equal up to rounding.

    >>> skewness(torch.tensor([0, 0, 0, 4])), skewness(torch.tensor([1, 1]))
    (1.1547..., 0.0)
    """
    values = np.asarray(counts, dtype=np.float64)
    apart = values - values.mean()
    spread = np.sqrt((apart**2).mean())
    return float((apart**3).mean() / spread**3) if spread > ROUNDING * abs(values).max() else 0.0


def never_retrieved(counts: Tensor | np.ndarray) -> float:
    """Percent of the items that are among no query's k nearest.

    >>> never_retrieved(torch.tensor([0, 0, 3, 1]))
    50.0
    """
    return 100.0 * float((np.asarray(counts) == 0).mean())


def hubness(
    similarity: SimilarityLike, *, k: int = NEAREST, sides: Sequence[str] = ("i2t", "t2i")
) -> dict[str, dict[str, float]]:
    """Skewness of the k-occurrence and percent never retrieved, of captions (i2t) and of images (t2i).

    `k` is limited to the number of items; `largest` is the k-occurrence of the largest hub.
    """
    source = as_similarity(similarity)
    directions = {
        "i2t": (image_rows(source), source.images, source.captions),
        "t2i": (caption_rows(source), source.captions, source.images),
    }
    result = {}
    for side in sides:
        rows, queries, items = directions[side]
        counts = k_occurrence(rows, queries, items, k=min(k, items))
        result[side] = {
            "k": min(k, items),
            "skewness": skewness(counts),
            "never_retrieved": never_retrieved(counts),
            "largest": float(counts.max()),
        }
    return result
