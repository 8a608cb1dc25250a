"""Segmentation from the masks that come with a data set (`Photo.segmentation`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from threeshnet.errors import DataError, Problems
from threeshnet.features.extractor import Extractor, half
from threeshnet.records import MAP_SIDE, SCENE_SIDE, VOID, AnnotatedSet, ImageArrays, Photo

WORK_SIDE = SCENE_SIDE * MAP_SIDE  # masks are brought to this side, so that both 7 and 64 cells divide it


class AnnotatedSegmentation(Extractor):
    """Area shares of the classes, majority map and classes present, from 8-bit masks (255 void).

    Void belongs to no class: in `seg/semantic` a cell's classes then sum to less than one.
    """

    name = "annotated"
    able = ("seg",)
    needs_pixels = False

    def prepare(self, annotated: AnnotatedSet) -> Extractor:
        """Take the class table; DataError when a photo has no mask."""
        problems = Problems(f"segmentation of data set {annotated.name!r}")
        if not annotated.classes:
            problems.add("the data set has no table of classes")
        bare = [photo for photo in annotated.photos if photo.segmentation is None]
        if bare:
            problems.add(f"{len(bare)} of {len(annotated.photos)} photos have no mask, {shown_ids(bare)}")
        problems.raise_as(DataError, "choose segmentation=own (the extractor's) instead")
        self.class_names = annotated.classes
        return self

    def load(self, photo: Photo, image: Image.Image | None) -> dict[str, Tensor]:
        del image
        if photo.segmentation is None:
            raise DataError(f"photo {photo.id!r}: no mask")
        with Image.open(photo.segmentation) as mask:
            if mask.mode not in ("L", "P"):
                raise DataError(f"{photo.segmentation}: a mask of mode {mask.mode}; expected 8-bit class numbers")
            numbers = np.array(mask.resize((WORK_SIDE, WORK_SIDE), Image.Resampling.NEAREST))
        return {"mask": torch.from_numpy(self._checked(numbers, photo))}

    def _checked(self, numbers: np.ndarray, photo: Photo) -> np.ndarray:
        wrong = (numbers >= len(self.class_names)) & (numbers != VOID)
        if wrong.any():
            known = f"0 to {len(self.class_names) - 1}, and {VOID} for void"
            raise DataError(f"{photo.segmentation}: class {numbers[wrong][0]}; there are {known}")
        return numbers

    def forward(self, inputs: Mapping[str, Tensor]) -> ImageArrays:
        mask = inputs["mask"]
        return arrays_of_classes(mask, class_shares(mask, len(self.class_names), SCENE_SIDE))


def shown_ids(photos: Sequence[Photo], most: int = 5) -> str:
    """The first ids of some photos, for a message."""
    more = f" and {len(photos) - most} more" if len(photos) > most else ""
    return ", ".join(repr(photo.id) for photo in photos[:most]) + more


def arrays_of_classes(classes: Tensor, semantic: Tensor) -> ImageArrays:
    """The `seg` field of photos whose every pixel has a class or is void.

    classes: [B, S, S] uint8; semantic: [B, C, 7, 7]. A cell of the map has the class with the largest share of it, void
    where no class has as much as void; a category is on where some pixel is of it.
    """
    shares = class_shares(classes, semantic.shape[1], MAP_SIDE)
    void = 1 - shares.sum(dim=1)
    best, number = shares.max(dim=1)
    return ImageArrays(
        seg_semantic=half(semantic),
        seg_map=number.byte().masked_fill_(void > best, VOID).cpu().numpy(),
        seg_categories=(shares.amax(dim=(2, 3)) > 0).byte().cpu().numpy(),
    )


def class_shares(mask: Tensor, classes: int, side: int) -> Tensor:
    """Share of each class in side x side cells of masks [B, S, S], S a multiple of side: [B, C, side, side]."""
    cell = mask.shape[-1] // side
    present = [number for number in mask.unique().tolist() if number != VOID]
    shares = mask.new_zeros((len(mask), classes, side, side), dtype=torch.float32)
    for number in present:
        shares[:, number] = functional.avg_pool2d((mask == number).float()[:, None], cell)[:, 0]
    return shares
