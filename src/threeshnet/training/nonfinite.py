"""The rows of shards behind a loss that is not finite."""

from __future__ import annotations

from typing import Any

import torch

from threeshnet.batches.dataset import CaptionDataset
from threeshnet.errors import DataError
from threeshnet.nn.collectives import gather_objects
from threeshnet.records import Batch, TokenSet

SHOWN = 8  # of each list


class NonFiniteLoss(DataError):
    """Raised in all processes at the same step, since all of them compute the same loss."""

    everywhere = True


def nonfinite_loss(loss: float, where: str, batch: Batch, dataset: Any) -> NonFiniteLoss:
    """The error that names the captions of the batch and the images in it whose features are not finite.

    `batch` is this process's share; the text is of all shares, and the same in all processes.
    """
    rows, damaged = _of_all(batch.rows.tolist()), _of_all(_damaged(batch, dataset))
    text = f"the loss is {loss} at {where}; captions of the batch: {_some(rows)}. "
    if damaged:
        return NonFiniteLoss(
            f"{text}Features that are no finite numbers: {_some(damaged)}. `make verify` finds every such row; make "
            "those shards again and go on with RESUME=1"
        )
    return NonFiniteLoss(
        f"{text}Their features are finite numbers, so the weights ran away: go on with RESUME=1 and a smaller "
        "optimization.learning_rate or trainer.gradient_clip_val, or another trainer.precision"
    )


def _damaged(batch: Batch, dataset: Any) -> list[str]:
    """`field of image id, row of its shard` of every image with a feature that is not finite."""
    if not isinstance(dataset, CaptionDataset):
        return []
    damaged, images = [], batch.images
    for field, tokens in (("region", images.regions), ("grid", images.grid), ("seg", images.seg_semantic)):
        if tokens is None:
            continue
        values = tokens.values if isinstance(tokens, TokenSet) else tokens
        whole = values.reshape(len(values), -1).isfinite().all(dim=1)
        owners = batch.owners[~whole.to(batch.owners.device)]
        damaged += [f"{field} of {dataset.image(owner)}" for owner in torch.unique(owners).tolist()]
    return damaged


def _some(items: list[Any]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(str(item) for item in items[:SHOWN]) + more


def _of_all(items: list[Any]) -> list[Any]:
    return [item for share in gather_objects(items) for item in share]
