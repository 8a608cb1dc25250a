"""Boxes: overlap and non-maximum suppression, without torchvision."""

from __future__ import annotations

import torch
from torch import Tensor


def overlaps(boxes: Tensor) -> Tensor:
    """Intersection over union of every two boxes.  boxes: [K, 4] xyxy -> [K, K].

    >>> overlaps(torch.tensor([[0.0, 0.0, 2.0, 1.0], [1.0, 0.0, 2.0, 1.0]])).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    return shared / (area[:, None] + area[None] - shared).clamp(min=torch.finfo(boxes.dtype).tiny)


def suppress(scores: Tensor, overlap: Tensor, *, threshold: float, most: int) -> Tensor:
    """Non-maximum suppression of the same K boxes under the scores of B images.

    scores: [B, K]; overlap: [K, K], see `overlaps`. Takes the best box left, drops those that overlap it by more than
    `threshold`, and so on. Returns [B, most] int64 box numbers, best first, -1 where none was left.
    """
    left = scores.clone()
    taken = []
    rows = torch.arange(len(scores), device=scores.device)
    for _ in range(min(most, scores.shape[1])):
        best, number = left.max(dim=1)
        taken.append(number.masked_fill(best == -torch.inf, -1))
        left = left.masked_fill(overlap[number] > threshold, -torch.inf)
        left[rows, number] = -torch.inf
    return torch.stack(taken, dim=1)


def nms(boxes: Tensor, scores: Tensor, *, threshold: float, most: int) -> Tensor:
    """Non-maximum suppression of one image's boxes [K, 4] xyxy by scores [K]: the numbers kept, best first.

    >>> boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.9, 1.0], [0.5, 0.5, 1.0, 1.0]])
    >>> nms(boxes, torch.tensor([0.5, 0.9, 0.1]), threshold=0.5, most=9).tolist()
    [1, 2]
    """
    kept = suppress(scores[None], overlaps(boxes), threshold=threshold, most=most)[0]
    return kept[kept >= 0]
