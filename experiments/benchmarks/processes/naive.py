"""What is done elsewhere instead of gathering with gradient; twins of `threeshnet.objectives.gather.gather_rows`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from threeshnet.objectives import gather

Gather = Callable[[Tensor, Sequence[int]], Tensor]


def own_negatives(rows: Tensor, counts: Sequence[int]) -> Tensor:  # noqa: ARG001
    """No gathering: each process has the negatives of its own share."""
    return rows


def without_gradient(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """`torch.distributed.all_gather`, and the own rows put back: those of the others come without gradient."""
    padded = torch.cat([rows, rows.new_zeros(max(counts) - len(rows), *rows.shape[1:])]).detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    parts[dist.get_rank()] = rows
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def loss_times_processes(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Gathered with gradient, which is multiplied by N once more "because DDP averages"."""
    gathered = ours(rows, counts)
    return gathered.detach() + len(counts) * (gathered - gathered.detach()) if rows.requires_grad else gathered


ours = gather.gather_rows
WAYS: dict[str, Gather] = {
    "each process its own negatives": own_negatives,
    "gathered without gradient": without_gradient,
    "gathered, loss times N": loss_times_processes,
}


@contextmanager
def gathering(way: Gather) -> Iterator[None]:
    """The suite gathers by `way`."""
    gather.gather_rows = way
    try:
        yield
    finally:
        gather.gather_rows = ours
