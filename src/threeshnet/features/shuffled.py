"""The segmentation of another photo, the control that shows whether a segmentation's content matters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from PIL import Image
from torch import Tensor

from threeshnet.errors import DataError
from threeshnet.features.extractor import Extractor
from threeshnet.features.photos import decoded
from threeshnet.records import AnnotatedSet, ImageArrays, Photo


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
        del image
        partner = self.partners[photo.id]
        return self.source.load(partner, decoded(partner.file) if self.source.needs_pixels else None)

    def forward(self, inputs: Mapping[str, Tensor]) -> ImageArrays:
        return self.source(inputs)


def derangement(count: int, seed: int) -> np.ndarray:
    """A permutation that leaves no number in its place: neighbours of a shuffled circle."""
    circle = np.random.default_rng(seed).permutation(count)
    order = np.empty(count, np.int64)
    order[circle] = np.roll(circle, -1)
    return order
