"""Segmentation of photos: from masks of a data set, from class probabilities, and of another photo as a control."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from threeshnet.annotations.photo_files import frame_of
from threeshnet.errors import DataError, Problems
from threeshnet.features.extractor import Extractor, half
from threeshnet.features.photos import open_photo
from threeshnet.records import MAP_SIDE, SCENE_SIDE, VOID, AnnotatedSet, ImageArrays, Photo

WORK_SIDE = SCENE_SIDE * MAP_SIDE  # masks are brought to this side, so that both 7 and 64 cells divide it

SHOWN = 5  # ids in a message


class AnnotatedSegmentation(Extractor):
    """Area shares of the classes, majority map and classes present, from 8-bit masks (255 void).

    Void belongs to no class: in `seg/semantic` a cell's classes then sum to less than one.
    """

    name = "annotated"
    able = ("seg",)
    needs_pixels = False
    small = True

    def prepare(self, annotated: AnnotatedSet) -> Extractor:
        """Take the class table; DataError when a photo has no mask."""
        problems = Problems(f"segmentation of data set {annotated.name!r}")
        if not annotated.classes:
            problems.add("the data set has no table of classes")
        bare = [photo for photo in annotated.photos if photo.segmentation is None]
        if bare:
            shown = ", ".join(repr(photo.id) for photo in bare[:SHOWN])
            more = f" and {len(bare) - SHOWN} more" if len(bare) > SHOWN else ""
            problems.add(f"{len(bare)} of {len(annotated.photos)} photos have no mask, {shown}{more}")
        problems.raise_as(DataError, "choose segmentation=own (the extractor's) instead")
        self.class_names = annotated.classes
        return self

    def load(self, photo: Photo, image: Image.Image | None) -> dict[str, Tensor]:
        if photo.segmentation is None:
            raise DataError(f"photo {photo.id!r}: no mask")
        try:
            with Image.open(photo.segmentation) as mask:
                if mask.mode not in ("L", "P"):
                    raise DataError(f"{photo.segmentation}: a mask of mode {mask.mode}; expected 8-bit class numbers")
                upright = frame_of(mask).upright(mask)
                numbers = np.array(upright.resize((WORK_SIDE, WORK_SIDE), Image.Resampling.NEAREST))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{photo.segmentation}: not a readable mask ({error})") from error
        wrong = (numbers >= len(self.class_names)) & (numbers != VOID)
        if wrong.any():
            classes = f"0 to {len(self.class_names) - 1}, and {VOID} for void"
            raise DataError(f"{photo.segmentation}: class {numbers[wrong][0]}; there are {classes}")
        return {"mask": torch.from_numpy(numbers)}

    def forward(self, inputs: Mapping[str, Tensor]) -> ImageArrays:
        mask = inputs["mask"]
        return arrays_of_classes(mask, class_shares(mask, len(self.class_names), SCENE_SIDE))


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
    """Share of each class in side x side cells of masks [B, S, S], S a multiple of side: [B, C, side, side].

    All pixels are counted at once. To pool the pixels of each class in turn takes several times as long.
    """
    photos, cell = len(mask), mask.shape[-1] // side
    integers: Any = {"dtype": torch.int32, "device": mask.device}
    along = torch.arange(mask.shape[-1], **integers) // cell
    cells = torch.arange(photos, **integers)[:, None, None] * side**2 + along[:, None] * side + along
    bins = classes + 1  # void is the last
    counts = torch.bincount((cells * bins + mask.clamp(max=classes)).flatten(), minlength=photos * side**2 * bins)
    pixels = counts.view(photos, side, side, bins)[..., :classes].permute(0, 3, 1, 2)
    return pixels.float().contiguous() / cell**2


def segmentation_arrays(probabilities: Tensor, threshold: float) -> ImageArrays:
    """The `seg` field out of class probabilities [B, C, 7, 7].

    The map is the most probable class of the bilinear enlargement, without void; a category is on where some cell has
    at least `threshold`.
    """
    # channels-last: the enlargement and the search through the classes are then eight times as fast
    last = probabilities.contiguous(memory_format=torch.channels_last)
    enlarged = nn.functional.interpolate(last, size=MAP_SIDE, mode="bilinear", align_corners=False)
    categories = probabilities.amax(dim=(2, 3)) >= threshold
    return ImageArrays(
        seg_semantic=half(probabilities),
        seg_map=enlarged.permute(0, 2, 3, 1).argmax(dim=-1).byte().cpu().numpy(),
        seg_categories=categories.byte().cpu().numpy(),
    )


class OwnSegmentation(Extractor):
    """The segmentation that the extractor of the features makes along the way."""

    name = "own"
    able = ("seg",)

    def prepare(self, annotated: AnnotatedSet) -> Extractor | None:
        return None


class AutomaticSegmentation(Extractor):
    """The annotated segmentation where the data set has one, else the extractor's own."""

    name = "automatic"
    able = ("seg",)

    def prepare(self, annotated: AnnotatedSet) -> Extractor | None:
        return AnnotatedSegmentation().prepare(annotated) if annotated.classes else None


class ShuffledSegmentation(Extractor):
    """Gives each photo what `source` makes of another photo of the same split, never of itself."""

    able = ("seg",)
    needs_pixels = False

    def __init__(self, *, source: Extractor, seed: int = 0) -> None:
        super().__init__()
        self.source, self.seed = source.only(["seg"]), seed
        self.name = f"shuffled {source.name}"
        self.partners: dict[str, Photo] = {}

    def prepare(self, annotated: AnnotatedSet) -> Extractor:
        """Choose the partners; DataError when a split has one photo only."""
        prepared = self.source.prepare(annotated)
        if prepared is None:
            raise DataError("segmentation=shuffled needs a source that segments by itself, such as annotated or lite0")
        self.source, self.class_names = prepared, prepared.class_names
        self.name, self.weights = f"shuffled {prepared.name}", prepared.weights
        self.options = {"seed": self.seed, **prepared.options}
        splits: dict[str, list[Photo]] = defaultdict(list)
        for photo in annotated.photos:
            splits[photo.split].append(photo)
        for split, photos in splits.items():
            if len(photos) < 2:
                raise DataError(f"split {split!r} has {len(photos)} photo; shuffling needs two or more")
            order = derangement(len(photos), self.seed)
            self.partners |= {photo.id: photos[other] for photo, other in zip(photos, order, strict=True)}
        return self

    def load(self, photo: Photo, image: Image.Image | None) -> dict[str, Tensor]:
        partner = self.partners[photo.id]
        return self.source.load(partner, open_photo(partner.file) if self.source.needs_pixels else None)

    def forward(self, inputs: Mapping[str, Tensor]) -> ImageArrays:
        return self.source(inputs)


def derangement(count: int, seed: int) -> np.ndarray:
    """A permutation that leaves no number in its place: neighbours of a shuffled circle."""
    circle = np.random.default_rng(seed).permutation(count)
    order = np.empty(count, np.int64)
    order[circle] = np.roll(circle, -1)
    return order
