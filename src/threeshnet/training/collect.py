"""Embeddings of a split from all processes: each item once, in its place, or an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from threeshnet.errors import DataError
from threeshnet.nn.collectives import add_up, gather_objects, process_count, process_index


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
        """Embeddings [items, D] of all processes.  Raises DataError when an item is missing, named by its number.

        Who encoded what is known before an embedding moves, so each travels once, and a process holds the split once.
        """
        embeddings, numbers = self._mine()
        if process_count() == 1:
            return in_order([(embeddings, numbers)], items)
        shares = gather_objects((numbers, embeddings.shape[1]))
        parts = [(torch.zeros(len(others), 0), others) for others, _ in shares]
        parts[process_index()] = (embeddings, numbers)
        return add_up(in_order(parts, items, width=max(width for _, width in shares)))

    def _mine(self) -> tuple[Tensor, Tensor]:
        if not self.numbers:
            return torch.zeros(0, 0), torch.zeros(0, dtype=torch.long)
        return torch.cat(self.embeddings), torch.cat(self.numbers)


def in_order(parts: Sequence[tuple[Tensor, Tensor]], items: int, width: int | None = None) -> Tensor:
    """Rows [items, D] from (embeddings, numbers) pairs; an item that was encoded twice counts once.

    With `width` D, parts whose embeddings are [b, 0] lie elsewhere: their rows are 0 here.

    >>> in_order([(torch.tensor([[2.0]]), torch.tensor([1])), (torch.tensor([[1.0]]), torch.tensor([0]))], 2)
    tensor([[1.],
            [2.]])
    """
    kept = first_encoded([numbers for _, numbers in parts], items)
    result = torch.zeros(items, parts[0][0].shape[1] if width is None else width)
    for (embeddings, numbers), first in zip(parts, kept, strict=True):
        if embeddings.shape[1]:
            result[numbers[first]] = embeddings[first]
    return result


def first_encoded(shares: Sequence[Tensor], items: int) -> list[Tensor]:
    """Which entries of each process's numbers [b] count, [b] bool: an item that was encoded twice counts once.

    Raises DataError when one of `items` was not encoded.

    >>> first_encoded([torch.tensor([0, 2]), torch.tensor([1, 2])], 3)
    [tensor([True, True]), tensor([ True, False])]
    """
    numbers = torch.cat(list(shares))
    missing = sorted(set(range(items)) - set(numbers.tolist()))
    if missing:
        raise DataError(f"{len(missing)} of {items} items were not encoded, the first of them number {missing[0]}")
    first = torch.full((items,), len(numbers)).scatter_reduce(0, numbers, torch.arange(len(numbers)), "amin")
    kept = torch.zeros(len(numbers), dtype=torch.bool)
    kept[first] = True
    return list(kept.split([len(share) for share in shares]))
