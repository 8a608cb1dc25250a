"""The pairs of all processes in each of them: negatives come from the global batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from threeshnet.nn.collectives import exchange_counts, stack_everywhere


def gather_rows(rows: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Rows [b, ...] of every process, in rank order and with gradient, as one [B, ...]; shares may be uneven.

    `counts` are the rows of each process where they are known already. On the way back the gradients of all processes
    are summed. Each of them computes the same loss of the same B rows, so that sum is `processes` times the gradient of
    the loss, and DDP, which averages over processes, makes it the loss's again: parameters of the encoders get the sum
    over all rows, parameters of the objective the mean of equal gradients. Nothing depends on the number of processes.

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
    """Embeddings of pairs [b, D] and the image each caption belongs to [b], of all processes: [B, D], [B, D], [B].

    One collective for both sides, at least in float32: the loss of half-precision embeddings is not summed in halves.
    """
    sides = torch.stack([images, captions], dim=1)
    sides = gather_rows(sides.to(torch.promote_types(sides.dtype, torch.float32)), counts)
    return (*sides.unbind(dim=1), gather_rows(owners, counts))
