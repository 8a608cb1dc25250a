"""The rank of the right item for every query, in both directions, counted from 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from threeshnet.errors import DataError, Problems
from threeshnet.metrics.low_precision import LowPrecision
from threeshnet.metrics.similarity import SimilarityLike, as_similarity, tiles

BLOCK_CELLS = 1 << 22  # similarities of a tile: 32 MB of float64, and as much again for comparisons


class Ranks(NamedTuple):
    """Ranks of the right items, 1 is the best. Ties count against us: an equally similar wrong item ranks higher."""

    i2t: Tensor  # [G] int64, rank of each image's best caption among the captions of other images
    t2i: Tensor  # [Q] int64, rank of each caption's image among all images


def rank_similarity(
    similarity: SimilarityLike,
    owner: Tensor | np.ndarray,
    *,
    block_cells: int = BLOCK_CELLS,
    precisions: Sequence[torch.dtype] | None = None,
) -> Ranks:
    """Ranks from a [G, Q] matrix or another source of similarities; `owner` [Q] is the image of each caption.

    At most `block_cells` similarities are held at once. Those of embeddings are counted in `precisions` where these
    decide, and in float64 where they do not (`metrics.low_precision`); None takes the precisions of this machine, and
    the ranks do not depend on them. Raises DataError for owners that do not fit, images without a caption, and NaN.

    >>> rank_similarity(torch.tensor([[0.9, 0.1, 0.3], [0.2, 0.1, 0.8]]), torch.tensor([0, 0, 1]))
    Ranks(i2t=tensor([1, 1]), t2i=tensor([1, 2, 1]))
    """
    source = as_similarity(similarity)
    owners = check_owner(owner, source.images, source.captions)
    right = _checked(source.pairs(owners))
    best = right.new_full((source.images,), -torch.inf).scatter_reduce(0, owners.to(right.device), right, "amax")
    quick = LowPrecision(source, precisions)
    by_image = torch.argsort(owners, stable=True)
    sorted_owners = owners[by_image]
    above_best, above_right = torch.zeros(source.images).long(), torch.zeros(source.captions).long()
    for images, captions in tiles(source.images, source.captions, block_cells):
        first, last = torch.searchsorted(sorted_owners, torch.tensor([images.start, images.stop])).tolist()
        own = by_image[first:last]
        own = own[(own >= captions.start) & (own < captions.stop)]
        cells = owners[own] - images.start, own - captions.start
        if counts := quick.counts(images, captions, best[images], right[captions], cells):
            above_best[images] += counts[0]
            above_right[captions] += counts[1]
            continue
        block = _checked(source.block(images, captions))
        above_best[images] += _count(block >= best[images, None], cells, dim=1)
        above_right[captions] += _count(block >= right[captions], cells, dim=0)
    return Ranks(above_best + 1, above_right + 1)


def _count(at_least: Tensor, own: tuple[Tensor, Tensor], *, dim: int) -> Tensor:
    """Number of captions of other images (dim 1) or of other images (dim 0) that are at least as similar.

    `own` are the cells of true pairs, which do not count. A product with ones is twenty times as fast as torch's sum of
    booleans, which converts to int64.
    """
    at_least[own] = False
    ones = torch.ones(at_least.shape[dim], device=at_least.device)
    numbers = at_least.float()  # exact: a tile is far narrower than 2**24
    return (numbers @ ones if dim else ones @ numbers).long().cpu()


def check_owner(owner: Tensor | np.ndarray, images: int, captions: int) -> Tensor:
    """`owner` as [captions] int64 on the CPU.

    Raises DataError unless every caption has an image and every image a caption.
    """
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
    """Raises DataError for NaN, which compares false with everything and would get the best rank."""
    if torch.isnan(block.sum()) and torch.isnan(block).any():  # the sum is cheap; inf - inf makes it NaN too
        raise DataError(
            "similarities hold NaN: the weights or the features do; look for the first step whose loss was not finite"
        )
    return block if block.is_floating_point() else block.double()
