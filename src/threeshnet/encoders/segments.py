"""Tokens of the segmentation's classes: which class is in the photo, and where.

VSpM attends to a map of class numbers, and scene tokens have no place of their own. Here a class and its place are in
one token, so that pooling, which is blind to order, keeps *a ball on the left* apart from *a ball, and something on the
left*. The paper has no such part; `experiments/where` is why there is one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from threeshnet.nn.masking import zero_padding
from threeshnet.records import MAP_SIDE, ImageBatch, TokenSet

BANDS = 8  # columns, and as many rows, that a class's mask is counted in
HIDDEN = 512


class Segments(NamedTuple):
    """The classes of `seg/map` and their places, [B, n]: padded to the photo with the most classes."""

    numbers: Tensor  # [B, n] int64, ascending
    mask: Tensor  # [B, n] bool
    places: Tensor  # [B, n, 2 * BANDS + 1]: shares of the mask in each column and row, root of its share of the map


class SegmentTokens(nn.Module):
    """One token for each class that covers some of the photo: MLP(class, columns, rows, size), [B, n, D].

    Columns and rows are `BANDS` equal stripes of the photo, and their numbers the shares of the class's mask in each.
    """

    def __init__(self, *, classes: int, dim: int) -> None:
        super().__init__()
        self.classes = classes
        self.enter = nn.Linear(classes + 2 * BANDS + 1, HIDDEN)
        self.leave = nn.Linear(HIDDEN, dim)

    def forward(self, local: TokenSet, projected: TokenSet, images: ImageBatch) -> TokenSet:
        assert images.seg_map is not None, "segment tokens need seg/map"
        return self.tokens(without_absent(all_classes(images.seg_map, self.classes)))

    def tokens(self, segments: Segments) -> TokenSet:
        """[B, n] classes -> [B, n, D]."""
        classes = F.one_hot(segments.numbers, self.classes).to(segments.places.dtype)
        values = torch.cat([classes, segments.places], dim=-1).to(self.enter.weight.dtype)
        return TokenSet(zero_padding(self.leave(self.enter(values).relu()), segments.mask), segments.mask)


def all_classes(seg_map: Tensor, classes: int) -> Segments:
    """All classes of the maps [B, 64, 64], those that a photo lacks masked; void is no class."""
    cells = seg_map.flatten(1).long().clamp(max=classes)  # void, which is 255 or C
    cell = torch.arange(MAP_SIDE * MAP_SIDE, device=cells.device)
    stripe, photos = MAP_SIDE // BANDS, cells.shape[0]  # not len(): the ONNX tracer would take it for a constant

    def counts(band: Tensor) -> Tensor:
        """Cells of each class in each band [B, classes, BANDS]."""
        counted = torch.zeros(photos, (classes + 1) * BANDS, device=cells.device)
        counted = counted.scatter_add(1, cells * BANDS + band, torch.ones_like(cells, dtype=counted.dtype))
        return counted.unflatten(1, (classes + 1, BANDS))[:, :classes]

    columns, rows = counts(cell % MAP_SIDE // stripe), counts(cell // MAP_SIDE // stripe)
    area = columns.sum(dim=-1, keepdim=True)
    places = torch.cat([columns / area.clamp(min=1), rows / area.clamp(min=1), (area / MAP_SIDE**2).sqrt()], dim=-1)
    numbers = torch.arange(classes, device=cells.device).expand(photos, -1)
    return Segments(numbers, area.squeeze(-1) > 0, places)


def without_absent(segments: Segments) -> Segments:
    """Only as many as the photo with the most classes has; one that is masked where all maps are void."""
    most = max(1, int(segments.mask.sum(dim=1).max()))
    first = segments.mask.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    wide = first.unsqueeze(-1).expand(-1, -1, segments.places.shape[-1])
    return Segments(first, segments.mask.gather(1, first), segments.places.gather(1, wide))
