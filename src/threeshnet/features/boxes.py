"""Boxes: overlap, non-maximum suppression and their features out of a feature map, without torchvision."""

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


BINS = 7  # a side, as in Faster R-CNN (Ren et al., 2015)
SAMPLES = 2  # a bin and side; Mask R-CNN (He et al., 2017) samples four points a bin


def roi_means(feature_map: Tensor, boxes: Tensor) -> Tensor:
    """One vector a box, the mean of its bins: a map [D, H, W] and boxes [K, 4] xyxy in [0, 1] to [K, D] float32.

    A bin is the mean of SAMPLES x SAMPLES points, spread evenly, each read bilinearly between the centres of the cells
    and from the nearest cell beyond them (RoIAlign of Mask R-CNN, aligned by half a cell as detectron2 does). All of a
    box's points together are a weighted mean of the cells. The weights are products of one for the row and one for the
    column, so that no point is read alone.
    """
    boxes = boxes.float()
    height, width = feature_map.shape[1:]
    columns, rows = (_weights(boxes[:, axis], boxes[:, axis + 2], side) for axis, side in ((0, width), (1, height)))
    with torch.autocast(boxes.device.type, enabled=False):  # which would round the product to bfloat16
        return (rows[:, :, None] * columns[:, None]).flatten(1) @ feature_map.float().flatten(1).T


def _weights(low: Tensor, high: Tensor, side: int) -> Tensor:
    """The weight of each of `side` cells in the mean of the points between low and high, both [K]: [K, side]."""
    count = BINS * SAMPLES
    steps = (torch.arange(count, device=low.device) + 0.5) / count
    places = ((low[:, None] + (high - low)[:, None] * steps) * side - 0.5).clamp(0, side - 1)  # 0: centre of a cell
    first = places.long()
    share = places - first
    weights = low.new_zeros(len(low), side).scatter_add(1, first, 1 - share)
    return weights.scatter_add(1, (first + 1).clamp(max=side - 1), share) / count
