"""Decisions that all processes of a run take alike."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from threeshnet.nn.collectives import process_count


class Agreement:
    """Decides in main memory over gloo: over NCCL a decision would have to wait for the GPU.

    Every process must call it at the same points in the same order.
    """

    def __init__(self) -> None:
        self._group: Any = None

    def any(self, *wishes: bool) -> list[bool]:
        """Which of the wishes at least one process has.

        >>> Agreement().any(True, False)
        [True, False]
        """
        return [bool(wish) for wish in self._reduced([int(wish) for wish in wishes], dist.ReduceOp.MAX)]

    def fewest(self, counts: list[int]) -> list[int]:
        """The smallest of each of `counts` in any process."""
        return self._reduced(counts, dist.ReduceOp.MIN)

    def _reduced(self, numbers: list[int], how: dist.ReduceOp.RedOpType) -> list[int]:
        if process_count() == 1 or not numbers:
            return numbers
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        tensor = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(tensor, how, group=self._group)
        return tensor.tolist()
