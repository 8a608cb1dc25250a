"""What stages work on: arrays, batches, shards and models with random numbers, in the shapes of three settings."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from threeshnet.batches.augment import DropTokens
from threeshnet.batches.collate import Keep, collate_images
from threeshnet.cli.door import compose_training
from threeshnet.demo.classes import CLASSES
from threeshnet.records import MAP_SIDE, SCENE_SIDE, Batch, ImageArrays, Photo, TokenSet
from threeshnet.shards.reader import ShardedSplit

from ..common import text_overrides
from ..naive_twin.naive import NaiveTwin
from ..streaming.formats import save_shards

# Wordpieces of Flickr8k's captions after augmentation, [CLS] and [SEP] included: mean, deviation, least, most.
LENGTHS = (13.3, 3.8, 3, 37)
VOCABULARY = (1_000, 30_000)  # wordpieces that are words
CAPTIONS = 5  # of an image
SPLIT = "test"


class Setting(NamedTuple):
    """A training: its experiment, and the sizes of its features and steps."""

    experiment: str
    text: str
    dim: int
    batch: int  # captions in a step
    regions: tuple[int, int] | None  # of an image, and their width
    grid: tuple[int, int] | None  # rows and columns in one number, and their width
    classes: int

    @property
    def fields(self) -> list[str]:
        """Of the shards."""
        return [name for name, there in (("region", self.regions), ("grid", self.grid)) if there] + ["seg"]

    @property
    def small(self) -> Setting:
        """The same model in sizes for a test."""
        regions, grid = self.regions and (5, 24), self.grid and (9, 24)
        return self._replace(text="tiny", dim=16, batch=4, regions=regions, grid=grid, classes=7)


SETTINGS: Mapping[str, Setting] = {
    "demo": Setting("hybrid_demo", "small", 128, 64, (36, 1280), (49, 1280), len(CLASSES)),
    "flickr8k": Setting("grid_flickr8k", "minilm", 256, 128, None, (49, 1280), 133),
    # The paper's sizes but for the batch, which is 256 there: an eighth of a minute for a step instead of half a one.
    "coco": Setting("region_coco", "bert_base", 1024, 64, (36, 2048), None, 133),
}


class Models(NamedTuple):
    """Ours and the plain twin with the same weights, and the settings of the training."""

    ours: Any
    naive: NaiveTwin
    settings: Any


def models(setting: Setting) -> Models:
    """Random weights, the same for the same setting."""
    torch.manual_seed(0)
    words = [f"experiment={setting.experiment}", f"dim={setting.dim}", *text_overrides(setting.text)]
    widths = {"regions": setting.regions, "grid": setting.grid}
    of_fields = {source: there[1] for source, there in widths.items() if there}
    settings = compose_training(words)[0].with_sizes(
        region_width=of_fields.get("regions"), grid_width=of_fields.get("grid"), classes=setting.classes
    )
    ours: Any = instantiate(settings.model)
    bert = copy.deepcopy(ours.text_encoder.bert)
    naive = NaiveTwin(bert=bert, widths=of_fields, dim=setting.dim, classes=setting.classes)
    naive.take_weights(ours)
    return Models(ours, naive, settings)


@contextmanager
def without_dropout(*parts: nn.Module) -> Iterator[None]:
    """In training mode, so that the results of two models can be compared."""
    found = [module for part in parts for module in part.modules() if isinstance(module, nn.Dropout)]
    shares = [module.p for module in found]
    for module in found:
        module.p = 0.0
    yield
    for module, share in zip(found, shares, strict=True):
        module.p = share


# ---- data


def arrays(setting: Setting, count: int, seed: int = 0) -> ImageArrays:
    """Images as shards hold them; half of the features are zero, as after a ReLU."""
    draw, classes = np.random.default_rng(seed), setting.classes

    def features(tokens: int, width: int) -> np.ndarray:
        return np.maximum(draw.standard_normal((count, tokens, width), np.float32), 0).astype(np.float16)

    blocks = draw.integers(classes, size=(count, 8, 8), dtype=np.uint8)
    return ImageArrays(
        regions=list(features(*setting.regions)) if setting.regions else None,
        grid=features(*setting.grid) if setting.grid else None,
        seg_semantic=draw.dirichlet(np.full(classes, 0.1), (count, SCENE_SIDE, SCENE_SIDE))
        .transpose(0, 3, 1, 2)
        .astype(np.float16),
        seg_map=blocks.repeat(MAP_SIDE // 8, axis=1).repeat(MAP_SIDE // 8, axis=2),
        seg_categories=(draw.random((count, classes)) > 0.95).astype(np.uint8),
    )


def keep(seed: int = 0) -> Keep:
    """Chooses a fifth of the tokens of each item to drop, as augmentation does; the same ones in each call."""
    drop = DropTokens()
    return lambda item, tokens: drop(tokens, np.random.default_rng([seed, item]))


def batch(setting: Setting, seed: int = 0) -> Batch:
    """A training batch on the device, in float32."""
    images, numbers = collate_images(arrays(setting, setting.batch, seed), keep=keep(seed)), torch.arange(setting.batch)
    return Batch(images, captions(setting.batch, seed), numbers, numbers)


def captions(count: int, seed: int = 0) -> TokenSet:
    """Wordpiece ids of sentences as long as Flickr8k's."""
    draw, (mean, deviation, least, most) = np.random.default_rng(seed), LENGTHS
    lengths = np.clip(np.rint(draw.normal(mean, deviation, count)), least, most).astype(np.int64)
    mask = np.arange(lengths.max()) < lengths[:, None]
    return TokenSet(torch.from_numpy(draw.integers(*VOCABULARY, mask.shape) * mask), torch.from_numpy(mask))


def shards(setting: Setting, folder: Path, images: int) -> ShardedSplit:
    """A split of one shard, with five captions an image."""
    made, words = arrays(setting, images), np.random.default_rng(1)

    def photo(number: int) -> Photo:
        sentences = (" ".join(words.choice(WORDS, words.integers(6, 15))) + f" {number}" for _ in range(CAPTIONS))
        return Photo(f"{number:06}", Path(f"{number:06}.jpg"), SPLIT, tuple(sentences))

    def some(numbers: range) -> ImageArrays:
        there: dict[str, Any] = {name: values for name, values in made._asdict().items() if values is not None}
        return ImageArrays(**{name: values[numbers.start : numbers.stop] for name, values in there.items()})

    side = round(setting.grid[0] ** 0.5) if setting.grid else 0
    folder.mkdir(parents=True)
    save_shards(folder, "made_up", images, photo=photo, arrays=some, grid_size=(side, side) if side else None)
    return ShardedSplit(folder, SPLIT)


WORDS = ("a", "red", "dog", "runs", "over", "the", "grass", "beside", "two", "old", "men", "in", "front", "of", "house")


def unit(rows: int, dim: int, seed: int) -> Tensor:
    """Random vectors of unit length, [rows, dim]."""
    return torch.nn.functional.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)
