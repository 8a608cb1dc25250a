"""What travels between the stages, and the one legend of shapes.

B batch, N tokens of a set, D joint width, C segmentation classes, Q queries, G gallery, H and W rows and columns of a
grid, Dr and Dg width of a region and of a grid cell.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MAP_SIDE = 64  # cells on a side of `seg/map`
SCENE_SIDE = 7  # cells on a side of `seg/semantic`
VOID = 255  # class number of a cell of `seg/map` that belongs to no class


class TokenSet(NamedTuple):
    """A padded set of vectors (or of wordpiece ids) and which of them are real."""

    values: Tensor  # [B, N, D] float, or [B, N] int64 for wordpiece ids
    mask: Tensor  # [B, N] bool

    @property
    def lengths(self) -> Tensor:
        """Real tokens of each set, [B] int64."""
        return self.mask.sum(dim=1)

    def to(self, device: torch.device | str) -> TokenSet:
        """The same set on another device, vectors in float32 where they travelled in float16."""
        return TokenSet(_moved(self.values, device), self.mask.to(device, non_blocking=True))


class ImageBatch(NamedTuple):
    """The image side of a batch. What a model does not use may be None."""

    regions: TokenSet | None  # [B, N, Dr]
    grid: TokenSet | None  # [B, H*W, Dg], row-major cells
    seg_semantic: Tensor | None  # [B, C, 7, 7] class probabilities
    seg_map: Tensor | None  # [B, 64, 64] class numbers of any real dtype, 255 (or C) is void
    seg_categories: Tensor | None  # [B, C] multi-hot of any real dtype
    region_boxes: Tensor | None = None  # [B, N, 4] xyxy in [0, 1] of the photo, of each region; 0 on padding
    grid_boxes: Tensor | None = None  # [B, N, 4] the same of each grid cell

    def to(self, device: torch.device | str) -> ImageBatch:
        """The same images on another device, in float32 where they travelled in float16."""
        return ImageBatch(
            regions=None if self.regions is None else self.regions.to(device),
            grid=None if self.grid is None else self.grid.to(device),
            seg_semantic=None if self.seg_semantic is None else _moved(self.seg_semantic, device),
            seg_map=None if self.seg_map is None else _moved(self.seg_map, device),
            seg_categories=None if self.seg_categories is None else _moved(self.seg_categories, device),
            region_boxes=None if self.region_boxes is None else _moved(self.region_boxes, device),
            grid_boxes=None if self.grid_boxes is None else _moved(self.grid_boxes, device),
        )


class Batch(NamedTuple):
    """Pairs of an image and one of its captions."""

    images: ImageBatch  # of B images, one a caption
    captions: TokenSet  # [B, N] wordpiece ids
    owners: Tensor  # [B] int64, number of the image in its split
    rows: Tensor  # [B] int64, number of the caption in its split

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(self.images.to(device), self.captions.to(device), self.owners.to(device), self.rows.to(device))


def _moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """On `device`; float16 is how features are stored and travel, float32 is what a model takes: the same numbers."""
    moved = tensor.to(device, non_blocking=True)
    return moved.float() if moved.dtype == torch.float16 else moved


class Photo(NamedTuple):
    """One annotated photo, as the readers in `annotations/` give it."""

    id: str  # stable and unique in its data set
    file: Path
    split: str  # train, dev, test or testall
    captions: tuple[str, ...]
    tags: tuple[str, ...] = ()  # one a caption (the demo world: what, where, both, plain), or empty
    segmentation: Path | None = None  # 8-bit PNG of class numbers (255 void), where the source has one
    size: tuple[int, int] | None = None  # width, height in pixels, where the source says it and the photo is not read


class AnnotatedSet(NamedTuple):
    """A data set before its features are made."""

    name: str
    photos: tuple[Photo, ...]
    classes: tuple[str, ...] = ()  # names of the classes in `Photo.segmentation`; empty without
    problems: tuple[str, ...] = ()  # entries left out, each with its reason


class ImageArrays(NamedTuple):
    """Arrays of some images in the order asked for; None where the shard (or the extractor) has no such field."""

    regions: list[np.ndarray] | None = None  # each [r, Dr]
    boxes: list[np.ndarray] | None = None  # each [r, 4] float32, xyxy in [0, 1]
    scores: list[np.ndarray] | None = None  # each [r] float32
    grid: np.ndarray | None = None  # [n, H*W, Dg]
    seg_semantic: np.ndarray | None = None  # [n, C, 7, 7]
    seg_map: np.ndarray | None = None  # [n, 64, 64] uint8
    seg_categories: np.ndarray | None = None  # [n, C] uint8
    labels: list[np.ndarray] | None = None  # each [r] int16, class of each region in the table of its detector
    grid_boxes: np.ndarray | None = (
        None  # [n, H*W, 4] float32, as `boxes`; they follow from H and W, and are not stored
    )
