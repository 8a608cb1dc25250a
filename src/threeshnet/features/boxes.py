"""Boxes: overlap, non-maximum suppression and their features out of a feature map, without torchvision."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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


def roi_align(feature_map: Tensor, boxes: Tensor, *, bins: int = BINS, samples: int = SAMPLES) -> Tensor:
    """The mean of each bin of each box: a map [D, H, W] and boxes [K, 4] xyxy in [0, 1] to [K, D, bins, bins].

    A bin is the mean of samples x samples points, spread evenly, each read bilinearly between the centres of the cells
    and from the nearest cell beyond them (RoIAlign of Mask R-CNN, aligned by half a cell as detectron2 does).
    """
    count = bins * samples
    steps = (torch.arange(count, device=boxes.device, dtype=torch.float32) + 0.5) / count
    low, size = boxes[:, :2].float(), (boxes[:, 2:] - boxes[:, :2]).float()
    places = low[:, None] + size[:, None] * steps[:, None]  # [K, count, 2] x, y in [0, 1]
    across = places[:, None, :, 0].expand(-1, count, -1)
    down = places[:, :, None, 1].expand(-1, -1, count)
    grid = torch.stack([across, down], dim=-1).flatten(0, 1)[None] * 2 - 1  # one tall picture of K samplings
    read = functional.grid_sample(
        feature_map[None].float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    read = read[0].unflatten(1, (len(boxes), count)).transpose(0, 1)  # [K, D, count, count]
    return functional.avg_pool2d(read, samples)


def roi_means(feature_map: Tensor, boxes: Tensor) -> Tensor:
    """One vector a box, the mean of its bins: a map [D, H, W] and boxes [K, 4] in [0, 1] to [K, D] float32."""
    return roi_align(feature_map, boxes).mean(dim=(2, 3))
