"""Results without the graph that made them, which is built again when their gradient is there.

`torch.utils.checkpoint` forgets activations too, but (not reentrant, as DDP needs it) keeps the graph itself: a GRU
over 73 tokens is two thousand nodes of 2 kB, more than the embeddings of the chunk that it pools. Here a result is one
node. To DDP, gradient scaling and clipping that is a backward pass like any other: gradients of weights are results of
the node, added up by autograd over all nodes before anybody hears of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Function = Callable[..., tuple[Tensor, ...]]


def recomputed(function: Function, inputs: Sequence[Tensor], weights: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """function(*inputs), called once more for the gradient: of `inputs`, and of the `weights` that it reads besides.

    It must give the same when it is called again. Without gradient (`torch.no_grad`) it is called once.
    """
    return _Recomputed.apply(function, len(inputs), *inputs, *weights)  # pyright: ignore[reportReturnType]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Function, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        kind = tensors[0].device.type
        ctx.function, ctx.count = function, count
        # Precision is chosen around the forward pass alone.
        ctx.precision = {
            "device_type": kind,
            "enabled": torch.is_autocast_enabled(kind),
            "dtype": torch.get_autocast_dtype(kind),
        }
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return function(*tensors[:count])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        inputs = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors[: ctx.count]]
        sources = [*inputs, *tensors[ctx.count :]]
        with torch.enable_grad(), torch.autocast(**ctx.precision):
            results = ctx.function(*inputs)
        used = [pair for pair in zip(results, grads, strict=True) if pair[0].requires_grad and pair[1] is not None]
        wanted = [source for source in sources if source.requires_grad]
        found: list[Tensor | None] = [None] * len(wanted)
        if used and wanted:
            ends, slopes = zip(*used, strict=True)
            found = list(torch.autograd.grad(ends, wanted, slopes, allow_unused=True))
        given = iter(found)
        return (None, None, *(next(given) if source.requires_grad else None for source in sources))
