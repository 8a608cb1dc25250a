"""The most confident wrong answers of a model, and the nearest captions of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from threeshnet.metrics.ranks import BLOCK_CELLS, check_owner
from threeshnet.metrics.similarity import SimilarityLike, as_similarity, tiles


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
    owners = check_owner(owner, source.images, source.captions)
    right = source.pairs(owners).cpu()
    right = right if right.is_floating_point() else right.double()
    below = torch.full((), -torch.inf, dtype=right.dtype)
    wrong_caption, wrong_image = below.repeat(source.images), below.repeat(source.captions)
    captions_at = torch.zeros(source.images, dtype=torch.long)
    images_at = torch.zeros(source.captions, dtype=torch.long)
    for images, captions in tiles(source.images, source.captions, block_cells):
        own = owners[captions] == torch.arange(images.start, images.stop).unsqueeze(1)
        block = source.block(images, captions).cpu().to(right.dtype).masked_fill(own, -torch.inf)
        _keep_best(block, 1, captions.start, wrong_caption[images], captions_at[images])
        _keep_best(block, 0, images.start, wrong_image[captions], images_at[captions])
    best, own_at = _best_own(right, owners, source.images)
    by_image = (wrong_caption - best, torch.arange(source.images), own_at, captions_at)
    by_caption = (wrong_image - right, owners, torch.arange(source.captions), images_at)
    return {"i2t": _hardest(*by_image, count=count), "t2i": _hardest(*by_caption, count=count)}


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


def _keep_best(block: Tensor, dim: int, start: int, best: Tensor, at: Tensor) -> None:
    """Keeps the maximum of `block` along `dim` in `best`, and its number in `at`, where it is larger."""
    values, numbers = block.max(dim=dim)
    larger = values > best
    best[larger] = values[larger]
    at[larger] = numbers[larger] + start


def _best_own(right: Tensor, owners: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Similarity and number of the most similar own caption of each image."""
    best = right.new_full((images,), -torch.inf).scatter_reduce(0, owners, right, "amax")
    numbers = torch.arange(len(owners)).masked_fill(right < best[owners], len(owners))
    return best, torch.full((images,), len(owners)).scatter_reduce(0, owners, numbers, "amin")


def _hardest(gaps: Tensor, images: Tensor, captions: Tensor, wrong: Tensor, *, count: int) -> list[Confusion]:
    order = gaps.argsort(descending=True, stable=True)[:count]
    order = order[gaps[order] >= 0]
    columns = (images[order], captions[order], wrong[order], gaps[order])
    return [Confusion(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
