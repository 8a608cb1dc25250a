"""Attention over place vectors that are computed when needed.

Autograd would keep B x 4096 x 128 numbers, and a checkpoint would compute the attention twice. Here only the attention
B x N x 4096 is kept, and place vectors are recomputed for the gradient. That takes a quarter of the memory traffic, and
one matrix product for both terms of the gradient of the place vectors.

Under autocast to bfloat16 the products with place vectors run in it; place vectors, sums over photos and gradients of
weights are float32. float16 could overflow in the gradient, so there all of it is float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def attend_places(query: Tensor, neighbours: Tensor, slope: Tensor, shift: Tensor, chunk: int) -> Tensor:
    """softmax(query @ places^T) @ places with places = ReLU(neighbours @ slope + shift), `chunk` photos at a time.

    query [B, N, W] (scaled), neighbours [B, P, K] (data, without gradient), slope [K, W], shift [P, W] -> [B, N, W].
    """
    device = query.device.type
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
    with torch.autocast(device, enabled=False):  # autocast does not reach our backward: dtypes would differ
        query = query.to(torch.bfloat16 if half else shift.dtype)
        result = _AttendPlaces.apply(query, neighbours, slope, shift, chunk)
    assert isinstance(result, Tensor)
    return result.to(shift.dtype)


class _AttendPlaces(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, neighbours: Tensor, slope: Tensor, shift: Tensor, chunk: int) -> Tensor:
        contexts, attentions, wanted = [], [], any(ctx.needs_input_grad)
        for q, near in zip(query.split(chunk), neighbours.split(chunk), strict=True):
            places = _places(near, slope, shift, query.dtype)
            attention = (q @ places.transpose(1, 2)).softmax(dim=-1)
            contexts.append(attention @ places)
            if wanted:
                attentions.append(attention)
        if wanted:
            ctx.save_for_backward(query, neighbours, slope, shift, *attentions)
            ctx.chunk = chunk
        return torch.cat(contexts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None]:
        query, neighbours, slope, shift, *attentions = ctx.saved_tensors
        query_grads = []
        slope_grad, shift_grad = torch.zeros_like(slope), torch.zeros_like(shift)
        parts = zip(query.split(ctx.chunk), neighbours.split(ctx.chunk), grad.split(ctx.chunk), attentions, strict=True)
        for q, near, g, attention in parts:
            places = _places(near, slope, shift, query.dtype)
            towards = g @ places.transpose(1, 2)  # gradient of the attention
            scores = attention * (towards - (towards * attention).sum(dim=-1, keepdim=True))
            query_grads.append(scores @ places)
            # as values (attention^T g) and as keys (scores^T q) at once
            both = torch.cat([attention, scores], dim=1).transpose(1, 2) @ torch.cat([g, q], dim=1)
            both = torch.ops.aten.threshold_backward(both, places, 0)  # ReLU's gradient, in one pass
            shift_grad += both.sum(dim=0, dtype=shift.dtype)
            # class numbers up to 256 are exact in bfloat16
            slope_grad += (near.to(both.dtype).transpose(1, 2) @ both).sum(dim=0, dtype=slope.dtype)
        return torch.cat(query_grads), None, slope_grad, shift_grad, None


def _places(neighbours: Tensor, slope: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    return (neighbours @ slope).add_(shift).relu_().to(dtype)
