"""Embeddings of a split from all processes: each item once, in its place, or an error."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from threeshnet.errors import DataError


class Embeddings(NamedTuple):
    """Both sides of a split, in its order."""

    images: Tensor  # [G, D]
    captions: Tensor  # [Q, D]


class Collector:
    """Takes (embeddings, numbers) batch by batch, keeps them in main memory, and puts each in its place at the end."""

    def __init__(self) -> None:
        self.embeddings: list[Tensor] = []
        self.numbers: list[Tensor] = []

    def add(self, embeddings: Tensor, numbers: Tensor) -> None:
        """Embeddings [B, D] of the items `numbers` [B]."""
        self.embeddings.append(embeddings.detach().float().cpu())
        self.numbers.append(numbers.cpu())

    def gather(self, items: int) -> Tensor:
        """Embeddings [items, D] of all processes.  Raises DataError when an item is missing, named by its number."""
        parts = [self._mine()]
        if dist.is_available() and dist.is_initialized():
            parts = [None] * dist.get_world_size()  # pyright: ignore[reportAssignmentType]
            dist.all_gather_object(parts, self._mine())
        return place([part for part in parts if part is not None], items)

    def _mine(self) -> tuple[Tensor, Tensor] | None:
        return (torch.cat(self.embeddings), torch.cat(self.numbers)) if self.numbers else None


def place(parts: list[tuple[Tensor, Tensor]], items: int) -> Tensor:
    """Rows [items, D] from (embeddings, numbers) pairs; an item that was encoded twice counts once.

    >>> place([(torch.tensor([[2.0]]), torch.tensor([1])), (torch.tensor([[1.0]]), torch.tensor([0]))], 2)
    tensor([[1.],
            [2.]])
    """
    numbers = torch.cat([part[1] for part in parts]) if parts else torch.zeros(0, dtype=torch.long)
    missing = sorted(set(range(items)) - set(numbers.tolist()))
    if missing:
        raise DataError(f"{len(missing)} of {items} items were not encoded, the first of them number {missing[0]}")
    embeddings = torch.cat([part[0] for part in parts])
    result = embeddings.new_empty(items, embeddings.shape[1])
    result[numbers] = embeddings
    return result
