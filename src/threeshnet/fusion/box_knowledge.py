"""Codes of the tokens' boxes.

Pooling is blind to order, and a region's features say little about its position. A code [B, N, D] is added to the
tokens before any guidance, so VSeM, VSpM and the pooled set all receive it. It starts at 0: training starts from the
model without it.

`BoxGeometry` is a function of the box alone, as in UNITER (Chen et al., ECCV 2020, arXiv 1909.11740). A sum of contents
and a sum of boxes, pooled, do not say which content is in which box.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from threeshnet.nn.masking import zero_padding
from threeshnet.records import ImageBatch, TokenSet

GEOMETRY = 7  # x1, y1, x2, y2, width, height, area


class StartingAtZero(nn.Module):
    """Linear, ReLU, Linear: [..., width] -> [..., dim]; the last layer is initialised with 0."""

    def __init__(self, *, width: int, dim: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, dim // 2)
        self.leave = nn.Linear(dim // 2, dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, values: Tensor) -> Tensor:
        return self.leave(self.enter(values).relu())


class BoxGeometry(nn.Module):
    """A code of each token's box: coordinates, width, height and area."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.code = StartingAtZero(width=GEOMETRY, dim=dim)

    def forward(self, boxes: Tensor, tokens: TokenSet, images: ImageBatch) -> Tensor:
        """Boxes [B, N, 4] (x1, y1, x2, y2 in [0, 1]) and projected tokens [B, N, D] -> codes [B, N, D]."""
        return zero_padding(self.code(geometry(boxes)), tokens.mask)


def geometry(boxes: Tensor) -> Tensor:
    """x1, y1, x2, y2, width, height and area of boxes [..., 4], all in shares of the photo: [..., 7].

    >>> geometry(torch.tensor([0.0, 0.5, 0.5, 1.0])).tolist()
    [0.0, 0.5, 0.5, 1.0, 0.5, 0.5, 0.25]
    """
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.cat([boxes, sides, sides.prod(dim=-1, keepdim=True)], dim=-1)
