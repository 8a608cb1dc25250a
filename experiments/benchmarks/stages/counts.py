"""Operators, FLOPs and memory of a piece of work, counted by torch's dispatcher and not timed."""

from __future__ import annotations

import gc
import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from .stage import Work

# The formulas of FlopCounterMode. It has none for attention on CPUs, and its hooks raise in `autograd.grad`.
ON_GPU = torch.ops.aten._scaled_dot_product_flash_attention
FORMULAS: Any = {**flop_registry, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[ON_GPU]}


class Count(NamedTuple):
    """It depends on no clock, processor or number of threads."""

    operators: int  # dispatched, forward and backward
    flops: int  # of matrix products, convolutions and attention
    allocated: int  # bytes of all results that got memory of their own
    peak: int  # bytes of such results that were alive at the same time


def count(work: Work) -> Count:
    """Counts the second call of `work`: the first may build what later calls keep, such as an optimizer's moments."""
    work()
    gc.collect()
    gc.disable()  # a collection in the middle would lower the peak, at no fixed time
    try:
        with _Counter() as counter:
            work()
    finally:
        gc.enable()
    return Count(counter.operators, counter.flops, counter.allocated, counter.peak)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operators = self.flops = self.allocated = self.alive = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.operators += 1
        if formula := FORMULAS.get(func.overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=result)
        given = _memories((args, kwargs))
        for address, memory in _memories(result).items():
            if address not in given:  # neither a view nor in place
                self._keep(memory)
        return result

    def _keep(self, memory: torch.UntypedStorage) -> None:
        size = memory.nbytes()
        self.allocated += size
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(memory, self._free, size)

    def _free(self, size: int) -> None:
        self.alive -= size


def _memories(values: Any) -> dict[int, torch.UntypedStorage]:
    """The memory of all tensors in `values`, by address."""
    found = [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)]
    return {memory.data_ptr(): memory for memory in found}
