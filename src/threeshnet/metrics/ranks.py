"""The rank of the right answer for every query, in both directions, counted from 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from threeshnet.errors import DataError, Problems
from threeshnet.metrics.similarity import EmbeddingSimilarity, SimilarityLike, as_similarity

BLOCK_CELLS = 1 << 23  # similarities held at once: 64 MB of float64


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
    owners = owners.to(right.device)
    best = right.new_full((source.images,), -torch.inf).scatter_reduce(0, owners, right, "amax")
    i2t, t2i = [], torch.ones_like(owners)
    for start, stop in _blocks(source.images, source.captions, block_cells):
        block = _checked(source.rows(start, stop))
        wrong = torch.arange(start, stop, device=owners.device)[:, None] != owners
        i2t.append(1 + ((block >= best[start:stop, None]) & wrong).sum(dim=1))
        t2i += ((block >= right) & wrong).sum(dim=0)
    return Ranks(torch.cat(i2t).cpu(), t2i.cpu())


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


def _blocks(images: int, captions: int, block_cells: int) -> Iterator[tuple[int, int]]:
    size = max(block_cells // captions, 1)
    return ((start, min(start + size, images)) for start in range(0, images, size))


def _checked(block: Tensor) -> Tensor:
    """NaN compares false with everything and would pass for the best rank."""
    if torch.isnan(block).any():
        raise DataError(
            "similarities hold NaN: the weights or the features do; look for the first step whose loss was not finite"
        )
    return block if block.is_floating_point() else block.double()
