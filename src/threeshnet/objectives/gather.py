"""Gathering pairs across processes, so that negatives come from the global batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from threeshnet.nn.collectives import exchange_counts, stack_everywhere


def gather_rows(rows: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Rows [b, ...] of all processes as one [B, ...], in rank order and with gradient; b may differ.

    `counts` are the numbers of rows of each process; None exchanges them. The backward pass sums the gradients of all
    processes. All compute the same loss of the same B rows, so the sum is `processes` times the gradient of the loss,
    and DDP's average over processes restores it. Encoder parameters get the sum over all rows, and parameters of the
    objective the mean of equal gradients. So nothing depends on the number of processes.

    >>> gather_rows(torch.tensor([[1.0], [2.0]]))
    tensor([[1.],
            [2.]])
    """
    if counts is None:
        counts = [count for (count,) in exchange_counts([len(rows)], rows.device)]
    if len(counts) == 1:
        return rows
    padded = torch.cat([rows, rows.new_zeros(max(counts) - len(rows), *rows.shape[1:])])
    everywhere = stack_everywhere(padded)
    return torch.cat([part[:count] for part, count in zip(everywhere, counts, strict=True)])


def gather_pairs(images: Tensor, captions: Tensor, owners: Tensor, counts: Sequence[int]) -> tuple[Tensor, ...]:
    """Embeddings of pairs [b, D] and their owners [b] of all processes: [B, D], [B, D], [B].

    One collective carries both sides, at least in float32, so that the loss is not summed in half precision.
    """
    sides = torch.stack([images, captions], dim=1)
    sides = gather_rows(sides.to(torch.promote_types(sides.dtype, torch.float32)), counts)
    return (*sides.unbind(dim=1), gather_rows(owners, counts))
