"""Losses in blocks: some images are compared with all captions at a time, so that B x B similarities are never held.

The B x B similarities of 32,768 pairs take 4 GB, and a loss keeps several such matrices for its gradient. A block is
computed, summed and discarded, and computed again for the gradient. The rows of a block hold everything that an image
query needs. What a caption query needs is merged from all blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from threeshnet.errors import ConfigError


def check_rows(rows: int | None) -> int | None:
    """`rows` of a block; None compares all pairs at once.  Raises ConfigError for less than 1."""
    if rows is not None and rows < 1:
        raise ConfigError(f"objective.rows={rows} must be at least 1; null compares all pairs at once")
    return rows


def triplet_hinge_in_blocks(
    images: Tensor, captions: Tensor, owners: Tensor, rows: int, margin: float, hardest: bool
) -> Tensor:
    """`triplet_hinge` of the pairs [B, D], at most `rows` images at a time; pairs of one owner are not negatives.

    Equal hardest negatives share the gradient, as in `amax`.
    """
    true = (images * captions).sum(dim=1)

    def hinges(start: int) -> tuple[Tensor, Tensor]:
        """Hinges of the images from `start` on as queries, and of all captions as queries: both [b, B]."""
        stop = start + rows
        similarity, match = images[start:stop] @ captions.T, owners[start:stop, None] == owners
        as_image_query = (margin + similarity - true[start:stop, None]).clamp(min=0).masked_fill(match, 0.0)
        return as_image_query, (margin + similarity - true).clamp(min=0).masked_fill(match, 0.0)

    if not hardest:
        return _total(lambda start: sum(part.sum() for part in hinges(start)), len(images), rows)
    worst, equals = _worst_of_columns(lambda start: hinges(start)[1], true, rows)

    def of_block(start: int) -> Tensor:
        as_image_query, as_caption_query = hinges(start)
        return as_image_query.amax(dim=1).sum() + (as_caption_query * ((as_caption_query == worst) / equals)).sum()

    return _total(of_block, len(images), rows)


def cross_entropy_in_blocks(images: Tensor, captions: Tensor, owners: Tensor, rows: int, scale: Tensor) -> Tensor:
    """Mean cross-entropy of the true pair in both directions, at most `rows` images at a time; `scale` of similarities.

    Other pairs of one owner are left out of the denominators.
    """
    true, pairs = (images * captions).sum(dim=1) * scale, torch.arange(len(owners), device=owners.device)

    def denominators(start: int) -> tuple[Tensor, Tensor]:
        """Log denominators: of the images from `start` on [b], and of all captions over these images [B]."""
        stop = start + rows
        logits = images[start:stop] @ captions.T * scale
        others = (owners[start:stop, None] == owners) & (pairs[start:stop, None] != pairs)
        # Not infinity: the gradient of a caption whose image fills this block would be NaN.
        logits = logits.masked_fill(others, torch.finfo(logits.dtype).min / 2)
        return logits.logsumexp(dim=1), logits.logsumexp(dim=0)

    parts = [_again(denominators, start) for start in range(0, len(images), rows)]
    of_images = torch.cat([image for image, _ in parts])
    of_captions = torch.stack([caption for _, caption in parts]).logsumexp(dim=0)
    return ((of_images - true).mean() + (of_captions - true).mean()) / 2


@torch.no_grad()
def _worst_of_columns(block: Callable[[int], Tensor], like: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The largest number in each column over all blocks, and how often it occurs, both [B]."""
    worst, equals = torch.full_like(like, float("-inf")), torch.zeros_like(like)
    for start in range(0, len(like), rows):
        here = block(start)
        largest = torch.maximum(worst, here.amax(dim=0))
        equals = equals * (worst == largest) + (here == largest).sum(dim=0)
        worst = largest
    return worst, equals


def _total(of_block: Callable[[int], Any], count: int, rows: int) -> Tensor:
    return torch.stack([_again(of_block, start) for start in range(0, count, rows)]).sum()


def _again(of_block: Callable[[int], Any], start: int) -> Any:
    """The result of a block; its matrices are discarded, and computed again for the gradient."""
    return checkpoint(of_block, start, use_reentrant=False, preserve_rng_state=False)
