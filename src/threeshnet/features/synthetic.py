"""Random arrays and captions in COCO's layout, for smoke tests and benchmarks. Nothing can be learned from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from threeshnet.errors import ConfigError
from threeshnet.features.extractor import PARTS, Extractor
from threeshnet.records import MAP_SIDE, SCENE_SIDE, AnnotatedSet, ImageArrays, Photo

CAPTIONS = 5
SHARES = {"train": 0.6, "dev": 0.2, "testall": 0.2}
WORDS = (  # noqa: SIM905  (a list of them would be three times as long)
    "a the two three man woman boy girl dog cat horse bird train bus car boat plane street beach field kitchen table "
    "bench tree river snow red blue green white black small large old young happy wet sitting standing running eating "
    "holding riding looking jumping sleeping playing on in under near behind beside above with and of at"
).split()


class SyntheticPhotos:
    """A reader without files: `images` photos in splits train, dev and testall with five captions each."""

    def __init__(self, *, images: int, seed: int = 0, name: str = "synthetic") -> None:
        if images < len(SHARES):
            raise ConfigError(f"images={images}: each of the splits {', '.join(SHARES)} needs one, so 3 is the least")
        self.images, self.seed, self.name = images, seed, name

    def read(self, raw: Path) -> AnnotatedSet:
        """The photos; `raw` is not looked at."""
        rest = {split: max(1, round(self.images * share)) for split, share in SHARES.items() if split != "train"}
        counts = {"train": self.images - sum(rest.values())} | rest
        splits = [split for split, count in counts.items() for _ in range(count)]
        generator = np.random.default_rng(self.seed)
        photos = []
        for number, split in enumerate(splits):
            lengths = generator.integers(8, 15, CAPTIONS)
            captions = tuple(" ".join(generator.choice(WORDS, length)) + "." for length in lengths)
            photos.append(Photo(f"synthetic-{number:06d}", Path(f"{number:06d}.jpg"), split, captions))
        return AnnotatedSet(self.name, tuple(photos))


class SyntheticArrays(Extractor):
    """An extractor that looks at no pixel: random arrays that depend on the seed and the photo's id alone."""

    name = "synthetic"
    needs_pixels = False

    def __init__(
        self,
        *,
        fields: Sequence[str] | None = None,
        seed: int = 0,
        regions: int = 36,
        region_width: int = 2048,
        grid_width: int = 2048,
        classes: int = 133,
    ) -> None:
        super().__init__(fields=fields)
        self.grid_size = (SCENE_SIDE, SCENE_SIDE)
        self.class_names = tuple(f"synthetic {number}" for number in range(classes))
        self.weights = f"random, seed {seed}"
        self.seed, self.regions, self.classes = seed, regions, classes
        self.region_width, self.grid_width = region_width, grid_width
        self.options = {"regions": regions, "region_width": region_width, "grid_width": grid_width, "classes": classes}

    def load(self, photo: Photo, image: Image.Image | None) -> dict[str, Tensor]:
        generator = np.random.default_rng([self.seed, *photo.id.encode()])
        made: dict[str, np.ndarray] = {}
        if "region" in self.fields:
            made |= self._regions(generator)
        if "grid" in self.fields:
            made["grid"] = _features(generator, SCENE_SIDE**2, self.grid_width)
        if "seg" in self.fields:
            made |= self._segmentation(generator)
        return {key: torch.from_numpy(values) for key, values in made.items()}

    def _regions(self, generator: np.random.Generator) -> dict[str, np.ndarray]:
        corners = np.sort(generator.random((self.regions, 2, 2), np.float32), axis=1)
        return {
            "regions": _features(generator, self.regions, self.region_width),
            "boxes": corners.reshape(self.regions, 4),
            "scores": np.sort(generator.random(self.regions, np.float32))[::-1].copy(),
        }

    def _segmentation(self, generator: np.random.Generator) -> dict[str, np.ndarray]:
        share = generator.exponential(1, (self.classes, SCENE_SIDE, SCENE_SIDE)) ** 4
        share /= share.sum(axis=0)
        scene_cell = np.arange(MAP_SIDE) * SCENE_SIDE // MAP_SIDE
        return {
            "seg_semantic": share.astype(np.float16),
            "seg_map": share.argmax(axis=0).astype(np.uint8)[scene_cell][:, scene_cell],
            "seg_categories": (share.max(axis=(1, 2)) >= 0.5).astype(np.uint8),
        }

    def forward(self, inputs: Mapping[str, Tensor]) -> ImageArrays:
        arrays: dict[str, Any] = {key: values.cpu().numpy() for key, values in inputs.items()}
        for key in PARTS["region"]:
            if key in arrays:
                arrays[key] = list(arrays[key])  # the record keeps ragged arrays as lists
        return ImageArrays(**arrays)


def _features(generator: np.random.Generator, tokens: int, width: int) -> np.ndarray:
    return np.abs(generator.standard_normal((tokens, width), np.float32)).astype(np.float16)
