"""Attention over place vectors that are computed when needed.

Autograd would keep B x 4096 x 128 numbers, and a checkpoint would compute the attention twice. Here only the attention
B x N x 4096 is kept, and place vectors are recomputed for the gradient. That takes a quarter of the memory traffic, and
one matrix product for both terms of the gradient of the place vectors.
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
    with torch.autocast(query.device.type, enabled=False):  # autocast does not reach our backward: dtypes would differ
        result = _AttendPlaces.apply(query.to(shift.dtype), neighbours, slope, shift, chunk)
    assert isinstance(result, Tensor)
    return result


class _AttendPlaces(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, neighbours: Tensor, slope: Tensor, shift: Tensor, chunk: int) -> Tensor:
        contexts, attentions = [], []
        for q, near in zip(query.split(chunk), neighbours.split(chunk), strict=True):
            places = _places(near, slope, shift)
            attention = (q @ places.transpose(1, 2)).softmax(dim=-1)
            contexts.append(attention @ places)
            attentions.append(attention)
        if any(ctx.needs_input_grad):
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
            places = _places(near, slope, shift)
            towards = g @ places.transpose(1, 2)  # gradient of the attention
            scores = attention * (towards - (towards * attention).sum(dim=-1, keepdim=True))
            query_grads.append(scores @ places)
            # as values (attention^T g) and as keys (scores^T q) at once
            both = torch.cat([attention, scores], dim=1).transpose(1, 2) @ torch.cat([g, q], dim=1)
            both = torch.ops.aten.threshold_backward(both, places, 0)  # ReLU's gradient, in one pass
            shift_grad += both.sum(dim=0)
            slope_grad += (near.transpose(1, 2) @ both).sum(dim=0)
        return torch.cat(query_grads), None, slope_grad, shift_grad, None


def _places(neighbours: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
    return (neighbours @ slope).add_(shift).relu_()
