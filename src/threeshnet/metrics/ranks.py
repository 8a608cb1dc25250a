"""The rank of the right answer for every query, in both directions, counted from 1."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from threeshnet.errors import DataError, Problems
from threeshnet.metrics.similarity import EmbeddingSimilarity, SimilarityLike, as_similarity, tiles

BLOCK_CELLS = 1 << 22  # similarities held at once: 32 MB of float64, twice as much with what is made of them


class Ranks(NamedTuple):
    """Rank of the right answer, 1 is the best. Ties count against us: a wrong answer as similar stands above."""

    i2t: Tensor  # [G] int64, of the best caption of each image among the captions of other images
    t2i: Tensor  # [Q] int64, of the owner of each caption among all images


def rank_similarity(similarity: SimilarityLike, owner: Tensor | np.ndarray, *, block_cells: int = BLOCK_CELLS) -> Ranks:
    """Ranks from a [G, Q] matrix or another source of similarities; `owner` [Q] is the image of each caption.

    Raises DataError for owners that do not fit, images without a caption and similarities that are not numbers.

    >>> rank_similarity(torch.tensor([[0.9, 0.1, 0.3], [0.2, 0.1, 0.8]]), torch.tensor([0, 0, 1]))
    Ranks(i2t=tensor([1, 1]), t2i=tensor([1, 2, 1]))
    """
    source = as_similarity(similarity)
    owners = check_owner(owner, source.images, source.captions)
    right = _checked(source.pairs(owners))
    best = right.new_full((source.images,), -torch.inf).scatter_reduce(0, owners.to(right.device), right, "amax")
    by_image = torch.argsort(owners, stable=True)
    sorted_owners = owners[by_image]
    above_best, above_right = torch.zeros(source.images).long(), torch.zeros(source.captions).long()
    for images, captions in tiles(source.images, source.captions, block_cells):
        block = _checked(source.block(images, captions))
        first, last = torch.searchsorted(sorted_owners, torch.tensor([images.start, images.stop])).tolist()
        own = by_image[first:last]
        own = own[(own >= captions.start) & (own < captions.stop)]
        place = owners[own] - images.start, own - captions.start
        above_best[images] += _count(block >= best[images, None], place, dim=1)
        above_right[captions] += _count(block >= right[captions], place, dim=0)
    return Ranks(above_best + 1, above_right + 1)


def _count(at_least: Tensor, own: tuple[Tensor, Tensor], *, dim: int) -> Tensor:
    """How many captions of other images (dim 1) or other images (dim 0) are at least as similar; `own` is not counted.

    A product with ones, because torch sums booleans by way of int64, twenty times as slowly.
    """
    at_least[own] = False
    ones = torch.ones(at_least.shape[dim], device=at_least.device)
    numbers = at_least.float()  # exact: a tile is far narrower than 2**24
    return (numbers @ ones if dim else ones @ numbers).long().cpu()


def rank_embeddings(
    images: Tensor, captions: Tensor, owner: Tensor | np.ndarray, *, block_cells: int = BLOCK_CELLS
) -> Ranks:
    """Ranks from embeddings [G, D] and [Q, D] without ever holding all G x Q similarities."""
    return rank_similarity(EmbeddingSimilarity(images, captions), owner, block_cells=block_cells)


def check_owner(owner: Tensor | np.ndarray, images: int, captions: int) -> Tensor:
    """`owner` as [captions] int64 on the CPU; raises DataError unless each caption has an image and each image one."""
    owners = torch.as_tensor(owner).detach().cpu()
    problems = Problems(f"owners of {captions} captions of {images} images")
    if not images or not captions:
        problems.add("there is nothing to rank; give a split with images and captions")
    elif owners.shape != (captions,) or owners.is_floating_point() or owners.dtype == torch.bool:
        problems.add(f"shape {list(owners.shape)} of {owners.dtype}; expected [{captions}] whole numbers")
    elif not (owners.min() >= 0 and owners.max() < images):
        problems.add(f"they reach from {owners.min()} to {owners.max()}; expected 0 to {images - 1}")
    else:
        missing = torch.nonzero(torch.bincount(owners.long(), minlength=images) == 0).flatten().tolist()
        if missing:
            shown = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
            problems.add(f"{len(missing)} images have no caption and so no rank: {shown}; leave them out of the split")
    problems.raise_as(DataError)
    return owners.long()


def _checked(block: Tensor) -> Tensor:
    """NaN compares false with everything and would pass for the best rank."""
    if torch.isnan(block.sum()) and torch.isnan(block).any():  # the sum is cheap; inf - inf makes it NaN too
        raise DataError(
            "similarities hold NaN: the weights or the features do; look for the first step whose loss was not finite"
        )
    return block if block.is_floating_point() else block.double()
