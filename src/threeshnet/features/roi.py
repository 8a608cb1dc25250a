"""Features of boxes out of a feature map, without torchvision."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

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
