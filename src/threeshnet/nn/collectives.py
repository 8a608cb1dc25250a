"""Collective operations between processes within a training step, with gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

Item = TypeVar("Item")
ROWS_IN_A_BLOCK = 8192  # 32 MB of embeddings of width 1024: few collectives, little memory


def process_index() -> int:
    """The rank of this process; 0 where nothing connects processes."""
    return dist.get_rank() if _connected() else 0


def process_count() -> int:
    """The number of connected processes; 1 where nothing connects them."""
    return dist.get_world_size() if _connected() else 1


def leave_together() -> None:
    """Wait for all processes, then close what connects them.

    A process that exits while gloo's threads still run may be aborted after all its work is done.
    """
    if _connected():
        dist.barrier()
        dist.destroy_process_group()


def _connected() -> bool:
    return dist.is_available() and dist.is_initialized()


def gather_objects(item: Item) -> list[Item]:
    """The item of every process, by rank; any object that can be pickled."""
    items: list[Any] = [item] * process_count()
    if len(items) > 1:
        dist.all_gather_object(items, item)
    return items


def stack_everywhere(mine: Tensor) -> Tensor:
    """`mine` [...] of every process, of the same shape in all, stacked in rank order: [processes, ...].

    The gradient of `mine` is the sum of what all processes ask of it, so a backward pass in each of them together is
    that of the sum of their losses. Every process must use the result, or the others wait for it.
    """
    return _Stack.apply(mine) if process_count() > 1 else mine.unsqueeze(0)  # pyright: ignore[reportReturnType]


def sum_everywhere(mine: Tensor) -> Tensor:
    """The sum of `mine` [...] of all processes, of the same shape in all; its gradient is summed in turn.

    As for `stack_everywhere`, every process must use the result.
    """
    return _Sum.apply(mine) if process_count() > 1 else mine  # pyright: ignore[reportReturnType]


def exchange_counts(counts: Sequence[int], device: torch.device) -> list[list[int]]:
    """`counts` of every process, in rank order; as many numbers in all of them."""
    if process_count() == 1:
        return [list(counts)]
    return stack_everywhere(torch.tensor(counts, dtype=torch.int64, device=device)).tolist()


def add_up(rows: Tensor) -> Tensor:
    """The sum of `rows` [items, ...] of all processes, in place and in main memory, without gradient.

    It travels in blocks through the memory of the device that the processes talk from.
    """
    on_gpu = dist.get_backend() == "nccl"
    for block in rows.split(ROWS_IN_A_BLOCK):
        moved = block.cuda() if on_gpu else block
        dist.all_reduce(moved)
        block.copy_(moved)
    return rows


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:  # noqa: ARG004
        return _summed(mine)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ARG004
        return _summed(grad)


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        ctx.rank, processes = process_index(), process_count()
        parts = [torch.empty_like(mine, memory_format=torch.contiguous_format) for _ in range(processes)]
        dist.all_gather(parts, mine.contiguous())
        return torch.stack(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _summed(grad)[ctx.rank]


def _summed(mine: Tensor) -> Tensor:
    total = mine.clone(memory_format=torch.contiguous_format)  # the sum is made in place, and `mine` is somebody's
    dist.all_reduce(total)
    return total
