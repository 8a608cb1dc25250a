"""R-Precision and mAP@R for queries with several right items, and recalls that any right item satisfies.

Both look at the R nearest items of a query with R right items (Musgrave, Belongie and Lim, "A Metric Learning Reality
Check", ECCV 2020, section 3.2). R-Precision is the share of right items among them. MAP@R is the mean over the R ranks
of the precision up to that rank where the item is right, and of 0 where it is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from threeshnet.errors import DataError, Problems
from threeshnet.metrics.similarity import Similarity, SimilarityLike, as_similarity

CUTOFFS = (1, 5, 10)
BLOCK_CELLS = 1 << 22
Rows = Callable[[int, int], Tensor]  # (first query, end) -> [queries, items]


class Positions(NamedTuple):
    """Ranks of the right items of each query, from 1; ties with wrong items count against us."""

    ranks: Tensor  # [Q, R] int64 ascending, 0 beyond a query's own count
    counts: Tensor  # [Q] int64, right items of each query


def positions_in_rows(rows: Rows, items: int, right: Sequence[Sequence[int]]) -> Positions:
    """Ranks of the items `right` of each query, from similarities that are computed some queries at a time.

    Raises DataError when an item does not exist or is named twice, when a query has no right item, and for NaN.

    >>> matrix = torch.tensor([[0.9, 0.5, 0.7], [0.1, 0.1, 0.0]])
    >>> positions_in_rows(lambda start, stop: matrix[start:stop], 3, [[0, 1], [0]])
    Positions(ranks=tensor([[1, 3], [2, 0]]), counts=tensor([2, 1]))
    """
    numbers, counts = _padded(right, items)
    parts = [_of_block(block, numbers[part], counts[part]) for part, block in blocks(rows, len(counts), items)]
    return Positions(torch.cat(parts), counts)


def positions_of_owners(similarity: SimilarityLike, owner: Tensor | np.ndarray) -> tuple[Positions, Positions]:
    """Ranks of all captions of each image (i2t), and of the image of each caption (t2i)."""
    source, owners = as_similarity(similarity), torch.as_tensor(owner).long()
    captions: list[list[int]] = [[] for _ in range(source.images)]
    for caption, image in enumerate(owners.tolist()):
        captions[image].append(caption)
    i2t = positions_in_rows(image_rows(source), source.captions, captions)
    return i2t, positions_in_rows(caption_rows(source), source.images, owners.unsqueeze(1).tolist())


def blocks(rows: Rows, queries: int, items: int) -> Iterator[tuple[slice, Tensor]]:
    """Similarities [some queries, items] and the queries that they are of: about BLOCK_CELLS numbers at a time."""
    size = max(BLOCK_CELLS // items, 1)
    for start in range(0, queries, size):
        part = slice(start, min(start + size, queries))
        yield part, rows(part.start, part.stop)


def image_rows(source: Similarity) -> Rows:
    """Images as queries, captions as items."""
    return lambda start, stop: source.block(slice(start, stop), slice(source.captions))


def caption_rows(source: Similarity) -> Rows:
    """Captions as queries, images as items."""
    return lambda start, stop: source.block(slice(source.images), slice(start, stop)).T


def r_precision(ranked: Positions) -> Tensor:
    """R-Precision of each query, [Q] float64 between 0 and 1.

    >>> r_precision(Positions(torch.tensor([[1, 3]]), torch.tensor([2]))).tolist()
    [0.5]
    """
    return _within(ranked).sum(dim=1) / ranked.counts.double()


def map_at_r(ranked: Positions) -> Tensor:
    """MAP@R of each query, [Q] float64 between 0 and 1; at most its R-Precision.

    >>> map_at_r(Positions(torch.tensor([[2, 3, 9]]), torch.tensor([3]))).tolist()  # (0 + 1/2 + 2/3) / 3
    [0.388...]
    """
    right_so_far = torch.arange(1, ranked.ranks.shape[1] + 1).double()
    precision = torch.where(_within(ranked), right_so_far / ranked.ranks.clamp(min=1), 0.0)
    return precision.sum(dim=1) / ranked.counts


def percent_of(ranked: Positions) -> dict[str, float]:
    """Means over the queries in percent: `map_at_r`, `r_precision` and `R@K` (a right item among the K nearest)."""
    first = ranked.ranks[:, 0]
    recalls = {f"R@{cutoff}": 100 * float((first <= cutoff).double().mean()) for cutoff in CUTOFFS}
    means: Mapping[str, Tensor] = {"map_at_r": map_at_r(ranked), "r_precision": r_precision(ranked)}
    return {name: 100 * float(values.mean()) for name, values in means.items()} | recalls


def _within(ranked: Positions) -> Tensor:
    return (ranked.ranks > 0) & (ranked.ranks <= ranked.counts[:, None])


def _of_block(block: Tensor, numbers: Tensor, counts: Tensor) -> Tensor:
    """Ranks of the right items: right items at least as near, and wrong items at least as similar.

    Queries with many right items come first, so that each pass over the block leaves out those that have no more.
    """
    if torch.isnan(block.sum()) and torch.isnan(block).any():
        raise DataError("similarities hold NaN, so nothing can be ranked; look for embeddings that are not finite")
    order = counts.argsort(descending=True, stable=True)
    if len(counts.unique()) > 1:
        block, numbers, counts = block[order.to(block.device)], numbers[order], counts[order]
    exists = torch.arange(numbers.shape[1]) < counts[:, None]
    values = block.gather(1, numbers.to(block.device)).cpu().masked_fill(~exists, -torch.inf)
    values = values.sort(dim=1, descending=True).values
    rows, right = torch.arange(len(numbers)).unsqueeze(1).expand_as(numbers)[exists], numbers[exists]
    ranks, ones = torch.zeros_like(numbers), torch.ones(block.shape[1], device=block.device)
    for number in range(int(counts[0])):
        queries = int((counts > number).sum())
        no_worse = block[:queries] >= values[:queries, number, None].to(block.device)
        their_own = slice(int(counts[:queries].sum()))
        no_worse[rows[their_own], right[their_own]] = False
        ranks[:queries, number] = number + 1 + (no_worse.float() @ ones).long().cpu()
    return ranks[order.argsort()]


def _padded(right: Sequence[Sequence[int]], items: int) -> tuple[Tensor, Tensor]:
    counts = torch.tensor([len(row) for row in right])
    problems = Problems(f"right answers of {len(right)} queries among {items} items")
    if not len(counts) or not items:
        problems.add("there is nothing to rank")
    for query, row in enumerate(right):
        if not len(row):
            problems.add(f"query {query} has none, and so no precision; leave it out")
        elif len(set(row)) != len(row):
            problems.add(f"query {query} names an item twice")
        elif not (min(row) >= 0 and max(row) < items):
            problems.add(f"query {query} names items {min(row)} to {max(row)}; expected 0 to {items - 1}")
    problems.raise_as(DataError)
    numbers = torch.zeros(len(right), int(counts.max()), dtype=torch.int64)
    for query, row in enumerate(right):
        numbers[query, : len(row)] = torch.as_tensor(row)
    return numbers, counts
