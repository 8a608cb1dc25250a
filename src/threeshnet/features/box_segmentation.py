"""Segmentation without masks: the boxes of a detector over the classes of another segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from threeshnet.errors import ConfigError
from threeshnet.features.composite import Composite
from threeshnet.features.extractor import Extractor, half
from threeshnet.features.segmentation import WORK_SIDE, class_shares
from threeshnet.records import MAP_SIDE, SCENE_SIDE, VOID, ImageArrays


class BoxSegmentation(Composite):
    """The classes of `things`, a detector, come first, those of `stuff`, a segmentation, after them.

    Boxes with a score of at least `threshold` are painted, the smallest in front. In `seg/semantic`, the share of a
    cell that a box covers in sight goes to its class, times the score; the classes of stuff share the rest. In
    `seg/map`, each cell has the class of the box in front, else its class of stuff.

    Raises ConfigError when a part makes something else, and for more classes than a map can number.
    """

    able = ("seg",)

    def __init__(
        self,
        *,
        things: Extractor,
        stuff: Extractor,
        threshold: float = 0.3,
        fields: Sequence[str] | None = None,
    ) -> None:
        if "region" not in things.able or not things.label_names:
            raise ConfigError(f"things: {things.name!r} has no classes of regions; take a detector, such as ssd")
        if "seg" not in stuff.able or not stuff.class_names:
            raise ConfigError(f"stuff: {stuff.name!r} has no classes of its own; take a segmentation, such as lite0")
        super().__init__(parts={"things": things.only(["region"]), "stuff": stuff.only(["seg"])}, fields=fields)
        self.threshold = threshold
        self.options |= {"threshold": threshold}
        self.class_names = things.label_names + stuff.class_names
        if len(self.class_names) > VOID:
            raise ConfigError(f"things and stuff have {len(self.class_names)} classes together; a map has {VOID}")

    def forward(self, inputs: Mapping[str, Any]) -> ImageArrays:
        found, below = (self.parts[key](inputs[key]) for key in ("things", "stuff"))
        of_photos: Any = zip(
            found.boxes,
            found.scores,
            found.labels,
            below.seg_semantic,
            below.seg_map,
            below.seg_categories,
            strict=True,
        )
        painted = [self.painted(*map(torch.from_numpy, arrays)) for arrays in of_photos]
        semantic, classes, categories = (torch.stack(arrays) for arrays in zip(*painted, strict=True))
        return ImageArrays(seg_semantic=half(semantic), seg_map=classes.numpy(), seg_categories=categories.numpy())

    def painted(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, semantic: Tensor, classes: Tensor, categories: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One photo: boxes [r, 4], scores [r], labels [r] over the three arrays of stuff, to the same three arrays."""
        high, things = scores >= self.threshold, len(self.class_names) - len(categories)
        boxes, scores, labels = boxes[high], scores[high], labels[high].long()
        claims = class_shares(front(boxes, WORK_SIDE)[None], len(boxes), SCENE_SIDE)[0] * scores[:, None, None]
        of_things = torch.zeros(things, SCENE_SIDE, SCENE_SIDE).index_add(0, labels, claims)
        of_stuff = semantic.float() * (1 - claims.sum(dim=0))
        nearest = front(boxes, MAP_SIDE)
        of_pixels = torch.cat([labels, labels.new_zeros(1)])[nearest]  # the last stands for no box, and is not seen
        below = torch.where(classes == VOID, VOID, classes.int() + things)
        seen = torch.where(nearest < len(boxes), of_pixels, below).byte()
        there = torch.zeros(things, dtype=torch.uint8).index_fill(0, labels, 1)
        return torch.cat([of_things, of_stuff]), seen, torch.cat([there, categories])


def front(boxes: Tensor, side: int) -> Tensor:
    """The number of the smallest box over the centre of each pixel, r where there is none: [r, 4] to [side, side].

    >>> front(torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 1.0, 0.6]]), 2).tolist()
    [[0, 1], [2, 2]]
    """
    numbers = torch.full((side, side), len(boxes))
    edges = (boxes * side - 0.5).ceil().int().tolist()  # the first pixel whose centre lies behind the edge
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    for number in areas.argsort(descending=True, stable=True).tolist():
        left, top, right, bottom = edges[number]
        numbers[top:bottom, left:right] = number
    return numbers
