"""Segmentation from class probabilities, and the two choices that need no network of their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from threeshnet.features.annotated import AnnotatedSegmentation
from threeshnet.features.extractor import Extractor, half
from threeshnet.records import MAP_SIDE, AnnotatedSet, ImageArrays


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
        del annotated
        return None


class AutomaticSegmentation(Extractor):
    """The annotated segmentation where the data set has one, else the extractor's own."""

    name = "automatic"
    able = ("seg",)

    def prepare(self, annotated: AnnotatedSet) -> Extractor | None:
        return AnnotatedSegmentation().prepare(annotated) if annotated.classes else None
