"""What a token knows of its own box: where it lies, and which classes lie in it.

Pooling is blind to order, and the features of a region say little of where it was cut out: without this nothing in the
set tells *left* from *right*. Each module here gives a code [B, N, D] that is added to the tokens before any guidance,
so that VSeM, VSpM and the pooled set all have it. The codes start at 0: training starts from the model without them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from threeshnet.nn.masking import zero_padding
from threeshnet.records import ImageBatch

GEOMETRY = 7  # x1, y1, x2, y2, width, height, area
THINNEST = 1e-4  # of a photo's side; far below a pixel


class StartingAtZero(nn.Module):
    """Linear, ReLU, Linear: [..., width] -> [..., dim], the last of them 0 at first."""

    def __init__(self, *, width: int, dim: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, dim // 2)
        self.leave = nn.Linear(dim // 2, dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, values: Tensor) -> Tensor:
        return self.leave(self.enter(values).relu())


class BoxGeometry(nn.Module):
    """Where a token lies: a code of its box."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.code = StartingAtZero(width=GEOMETRY, dim=dim)

    def forward(self, boxes: Tensor, mask: Tensor, images: ImageBatch) -> Tensor:
        """Boxes [B, N, 4] and which are real [B, N] -> codes [B, N, D]."""
        return zero_padding(self.code(geometry(boxes)), mask)


class BoxClasses(nn.Module):
    """What lies in a token's box: a code of the segmentation inside it."""

    def __init__(self, *, classes: int, dim: int) -> None:
        super().__init__()
        self.code = StartingAtZero(width=classes, dim=dim)

    def forward(self, boxes: Tensor, mask: Tensor, images: ImageBatch) -> Tensor:
        """Boxes [B, N, 4], which are real [B, N], and `seg_semantic` -> codes [B, N, D]."""
        assert images.seg_semantic is not None, "the classes in a box need seg/semantic"
        return zero_padding(self.code(classes_inside(boxes, images.seg_semantic)), mask)


def geometry(boxes: Tensor) -> Tensor:
    """x1, y1, x2, y2, width, height and area of boxes [..., 4], all in shares of the photo: [..., 7].

    >>> geometry(torch.tensor([0.0, 0.5, 0.5, 1.0])).tolist()
    [0.0, 0.5, 0.5, 1.0, 0.5, 0.5, 0.25]
    """
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.cat([boxes, sides, sides.prod(dim=-1, keepdim=True)], dim=-1)


def classes_inside(boxes: Tensor, semantic: Tensor) -> Tensor:
    """Mean class probabilities in boxes [B, N, 4] over the cells of `seg_semantic` [B, C, H, W]: [B, N, C].

    A cell counts by the area that it shares with the box; a box without area takes the cells it touches.
    """
    height, width = semantic.shape[-2:]
    rows = _overlap(boxes[..., 1], boxes[..., 3], height)
    columns = _overlap(boxes[..., 0], boxes[..., 2], width)
    shares = (rows.unsqueeze(-1) * columns.unsqueeze(-2)).flatten(2)  # [B, N, H*W]
    return shares @ semantic.flatten(2).transpose(1, 2)


def _overlap(low: Tensor, high: Tensor, cells: int) -> Tensor:
    """Share of the stretch from `low` to `high` [B, N] that lies in each equal cell of [0, 1]: [B, N, cells]."""
    edges = torch.linspace(0, 1, cells + 1, device=low.device, dtype=low.dtype)
    # a line has no length: give it a hair's breadth, inside of [0, 1]
    low = low.clamp(max=1 - THINNEST)
    high = torch.maximum(high, low + THINNEST)
    shared = torch.minimum(high.unsqueeze(-1), edges[1:]) - torch.maximum(low.unsqueeze(-1), edges[:-1])
    shared = shared.clamp(min=0)
    return shared / shared.sum(dim=-1, keepdim=True)
