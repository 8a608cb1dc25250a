"""The most confident wrong answers of a model, and the nearest captions of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from threeshnet.metrics.precision import Rows, caption_rows, image_rows
from threeshnet.metrics.ranks import BLOCK_CELLS, check_owner
from threeshnet.metrics.similarity import SimilarityLike, as_similarity


class Confusion(NamedTuple):
    """A query, and the wrong item that is ranked furthest above its right item."""

    image: int  # the query image (i2t), or the right image of the query caption (t2i)
    caption: int  # the nearest own caption of the query image (i2t), or the query caption (t2i)
    wrong: int  # the wrong caption (i2t) or image (t2i)
    gap: float  # similarity of the wrong item minus that of the right one; 0 is a tie


def hardest_confusions(
    similarity: SimilarityLike, owner: Tensor | np.ndarray, *, count: int, block_cells: int = BLOCK_CELLS
) -> dict[str, list[Confusion]]:
    """The `count` wrongly answered queries of each direction with the largest gap, largest first.

    `owner` [Q] is the image of each caption. Raises DataError as `rank_similarity` does.

    >>> hardest_confusions(torch.tensor([[0.9, 0.4], [0.2, 0.1]]), torch.tensor([0, 1]), count=1)["t2i"]
    [Confusion(image=1, caption=1, wrong=0, gap=0.3...)]
    """
    source = as_similarity(similarity)
    owners, images = check_owner(owner, source.images, source.captions), torch.arange(source.images)
    i2t = _hardest(image_rows(source), images, owners, count, block_cells)
    t2i = _hardest(caption_rows(source), owners, images, count, block_cells)
    return {
        "i2t": [Confusion(query, right, wrong, gap) for query, right, wrong, gap in i2t],
        "t2i": [Confusion(right, query, wrong, gap) for query, right, wrong, gap in t2i],
    }


def nearest_captions(similarity: SimilarityLike, images: Sequence[int], *, count: int) -> list[list[tuple[int, float]]]:
    """The `count` most similar captions of each image with their similarities, best first.

    >>> nearest_captions([[0.5, 1.0], [1.0, 0.0]], [1], count=2)
    [[(0, 1.0), (1, 0.0)]]
    """
    source = as_similarity(similarity)
    nearest = []
    for image in images:
        row = source.block(slice(image, image + 1), slice(0, source.captions))[0]
        values, captions = row.topk(min(count, source.captions))
        nearest.append(list(zip(captions.tolist(), values.tolist(), strict=True)))
    return nearest


def _hardest(
    rows: Rows, queries: Tensor, items: Tensor, count: int, block_cells: int
) -> list[tuple[int, int, int, float]]:
    """(query, nearest right item, nearest wrong item, gap); `queries` [Q] and `items` [N] are the image of each."""
    size, parts = max(block_cells // len(items), 1), []
    for start in range(0, len(queries), size):
        images = queries[start : start + size, None]
        block = rows(start, start + len(images)).cpu()
        block = block if block.is_floating_point() else block.double()
        best, right = block.masked_fill(images != items, -torch.inf).max(dim=1)
        worst, wrong = block.masked_fill(images == items, -torch.inf).max(dim=1)
        parts.append((right, wrong, worst - best))
    right, wrong, gaps = (torch.cat(column) for column in zip(*parts, strict=True))
    order = gaps.argsort(descending=True, stable=True)[:count]
    order = order[gaps[order] >= 0]
    return list(zip(*(column.tolist() for column in (order, right[order], wrong[order], gaps[order])), strict=True))
