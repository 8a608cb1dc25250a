"""A Lightning data module over the shards of one data set."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from threeshnet.batches.augment import AlterWords, DropTokens
from threeshnet.batches.dataset import CaptionDataset, ImageDataset, TextDataset
from threeshnet.batches.loader import Loader, TrainingLoader
from threeshnet.batches.order import CaptionBatches, EveryItemOnce, make_order
from threeshnet.batches.readahead import MEGABYTE, Readahead
from threeshnet.batches.tokenizers import Wordpieces
from threeshnet.errors import ConfigError, Problems
from threeshnet.shards.manifest import Manifest, make_view, open_view
from threeshnet.shards.reader import ShardedSplit

TEST_SPLITS = ("test", "testall")
READAHEAD_MEGABYTES = 1280  # two windows of 4,096 captions with 36 x 2048 float16 regions each
PREFETCH_MEGABYTES = 1024  # of finished batches that wait for training
BATCHES_AHEAD = 2  # of each worker, within PREFETCH_MEGABYTES
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Splits to train on, and the dev and held-out split; None for none."""

    train: Sequence[str] = ("train",)
    dev: str | None = "dev"
    test: str | None = "test"


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Sizes and order of batches, with the names of the config key `batches`."""

    batch_size: int = 128  # captions of a step, all processes together
    evaluation_batch_size: int = 256  # images or captions of one process
    workers: int = 0  # processes of each loader
    drop_last: bool = True
    limit_train_images: int | None = None
    order: str = "shuffle"  # or blocks
    block_images: int = 32
    window_captions: int = 4096


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Augmentation of training pairs, with the names of the config key `augment`."""

    drop_tokens: DropTokens | None = None
    alter_words: AlterWords | None = None
    views: Sequence[str] = ()  # data sets with random crops of the same photos


class RetrievalDataModule(pl.LightningDataModule):
    """Training pairs from the training splits; images and captions, each once, from the dev and test split.

    The batch samplers divide batches among the processes: the Trainer needs `use_distributed_sampler=False`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tokenizer: Wordpieces,
        fields: Collection[str],
        splits: Splits = Splits(),
        batches: BatchOptions = BatchOptions(),
        augment: Augmentation = Augmentation(),
        scored_views: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        """`folder` holds the shards of one data set; `fields` are among region, grid, seg.

        Dev and test images are averaged with those of `scored_views` (test-time augmentation). The manifest is opened
        at once: raises DataError when it is missing, and ConfigError for splits or fields that it does not have.
        """
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a tiny split may leave a process without items
        self.folder, self.manifest = folder, Manifest.load(folder)
        self.tokenizer, self.fields, self.seed = tokenizer, tuple(fields), seed
        self.train_splits, self.dev_split = tuple(splits.train), splits.dev
        self.test_split = self._test_split(splits.test)
        self.options, self.augment = batches, augment
        sizes = {"block_images": batches.block_images, "window_captions": batches.window_captions}
        self.order = make_order(batches.order, **sizes)
        self._check()
        self.views = {name: open_view(folder, name) for name in augment.views}
        self.scored_views = {name: open_view(folder, name) for name in scored_views}
        self._splits: dict[str, ShardedSplit] = {}

    def split(self, name: str) -> ShardedSplit:
        """One split, opened once."""
        if name not in self._splits:
            self._check_splits([name])
            self._splits[name] = ShardedSplit(self.folder, name)
        return self._splits[name]

    def train_dataloader(self) -> TrainingLoader:
        """Batches of this process, every caption once an epoch.  Raises ConfigError without a split to train on."""
        if not self.train_splits:
            raise ConfigError("train_splits is empty: name the splits to train on")
        splits = [self.split(name) for name in self.train_splits]
        dataset = CaptionDataset(
            splits=splits,
            tokenizer=self.tokenizer,
            fields=self.fields,
            drop_tokens=self.augment.drop_tokens,
            alter_words=self.augment.alter_words,
            seed=self.seed,
            limit_images=self.options.limit_train_images,
            views=[self._seen_as(view, folder, splits) for view, folder in self.views.items()],
        )
        rank, world_size = self._process()
        batches = CaptionBatches(
            dataset.owners[dataset.rows],
            batch_size=self.options.batch_size,
            seed=self.seed,
            drop_last=self.options.drop_last,
            rank=rank,
            world_size=world_size,
            order=self.order,
        )
        ahead = 0 if self.views else READAHEAD_MEGABYTES  # the view of a pair is drawn only when its batch is made
        readahead = Readahead(splits=splits, fields=self.fields, megabytes=ahead)
        size = splits[0].image_bytes(self.fields) * self.options.batch_size // world_size
        return TrainingLoader(dataset, batches=batches, readahead=readahead, **self._loader_options(size))

    def val_dataloader(self) -> list[Loader]:
        """[images, captions] of the dev split; none when there is no dev split."""
        return self.evaluation_loaders(self.dev_split) if self.dev_split else []

    def test_dataloader(self) -> list[Loader]:
        """[images, captions] of the held-out split; none when there is no such split."""
        return self.evaluation_loaders(self.test_split) if self.test_split else []

    def evaluation_loaders(self, name: str) -> list[Loader]:
        """Loaders of (ImageBatch, numbers) and (TokenSet, numbers) of a split, each item once in one process.

        They are followed by one more loader of images for each of `scored_views`, in the same order.
        """
        split, (rank, world_size) = self.split(name), self._process()
        seen = [split, *(self._seen_as(view, folder, [split])[0] for view, folder in self.scored_views.items())]
        texts = TextDataset(split=split, tokenizer=self.tokenizer)
        size = self.options.evaluation_batch_size
        share: dict[str, Any] = {"batch_size": size, "rank": rank, "world_size": world_size}
        options = self._loader_options(split.image_bytes(self.fields) * size)
        images, *views = (
            Loader(
                ImageDataset(split=each, fields=self.fields),
                batch_sampler=EveryItemOnce(each.images, **share),
                **options,
            )
            for each in seen
        )
        order = EveryItemOnce(len(texts), order=texts.by_length(), **share)
        return [images, Loader(texts, batch_sampler=order, **options), *views]

    def _seen_as(self, view: str, folder: Path, splits: Sequence[ShardedSplit]) -> list[ShardedSplit]:
        """These splits in the shards of a view.  Raises ConfigError when their photos or extractors differ."""
        problems = Problems(f"views: {view}")
        way_out = f"Make it of these photos, with their extractors: {make_view(self.manifest.dataset, view)}"
        manifest = Manifest.load(folder)
        problems.extend(
            f"there is no split {split.name!r}; there are: {', '.join(sorted(manifest.splits))}"
            for split in splits
            if split.name not in manifest.splits
        )
        problems.extend(unlike(manifest, self.manifest, self.fields))
        problems.raise_as(ConfigError, way_out)
        there = [ShardedSplit(folder, split.name) for split in splits]
        for split, seen in zip(splits, there, strict=True):
            if list(split.image_ids) != list(seen.image_ids):
                problems.add(f"the images of split {split.name!r} differ, or their order does")
        problems.raise_as(ConfigError, way_out)
        return there

    def _loader_options(self, batch_bytes: int) -> dict[str, Any]:
        """torch's options of a loader whose batches take `batch_bytes` bytes."""
        ahead = PREFETCH_MEGABYTES * MEGABYTE // max(1, batch_bytes * self.options.workers)
        return {
            "num_workers": self.options.workers,
            "collate_fn": _as_is,
            "persistent_workers": self.options.workers > 0,
            "prefetch_factor": max(1, min(BATCHES_AHEAD, ahead)) if self.options.workers else None,
            "pin_memory": torch.cuda.is_available(),
            # A loader draws a seed for its workers when it starts: not from the generator of the model's dropout.
            "generator": torch.Generator().manual_seed(self.seed),
        }

    def _process(self) -> tuple[int, int]:
        """Rank of this process and number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _test_split(self, name: str | None) -> str | None:
        split = None if name is None else held_out(name, self.manifest.splits)
        if split != name:
            log.warning("%s: there is no split %r; taking %r, the only held-out split there", self.folder, name, split)
        return split

    def _check(self) -> None:
        problems = Problems(f"{self.folder}")
        problems.extend(
            f"fields: {field!r} is not in these shards, which hold {', '.join(sorted(self.manifest.fields))}"
            for field in self.fields
            if field not in self.manifest.fields
        )
        if self.options.evaluation_batch_size < 1:
            problems.add(f"evaluation_batch_size={self.options.evaluation_batch_size} must be at least 1")
        if self.options.workers < 0:
            problems.add(f"workers={self.options.workers} must not be negative")
        problems.raise_as(ConfigError, "`make data` with another extractor makes other fields.")
        self._check_splits([*self.train_splits, *filter(None, [self.dev_split, self.test_split])])

    def _check_splits(self, names: Sequence[str]) -> None:
        names_here = sorted(self.manifest.splits)
        problems = Problems(f"{self.folder}")
        problems.extend(
            f"there is no split {name!r}; there are: {', '.join(names_here)}"
            for name in names
            if name not in names_here
        )
        problems.raise_as(
            ConfigError, "Set train_splits, dev_split (null for none) and test_split to splits that exist."
        )


def unlike(view: Manifest, own: Manifest, fields: Collection[str]) -> Iterator[str]:
    """Why a view's shards do not replace the data set's: other extractors, widths or classes."""
    makers = {field: (view.extractors.get(field), own.extractors.get(field)) for field in fields}
    yield from (f"{field} is made by {one}, ours by {other}" for field, (one, other) in makers.items() if one != other)
    widths = {"region": "layout.region_width", "grid": "layout.grid_size", "seg": "class_table"}
    for name in (widths[field] for field in fields):
        one, other = (attrgetter(name)(manifest) for manifest in (view, own))
        if one != other:
            yield f"{name.removeprefix('layout.')} is {one}, ours {other}"


def held_out(name: str, splits: Collection[str]) -> str:
    """The held-out split for `name`: shards with only one of test and testall answer to both names.

    >>> held_out("test", ["train", "testall"]), held_out("test", ["test", "testall"]), held_out("dev", ["testall"])
    ('testall', 'test', 'dev')
    """
    there = [split for split in TEST_SPLITS if split in splits]
    return there[0] if name in TEST_SPLITS and name not in there and len(there) == 1 else name


def _as_is(batch: Any) -> Any:
    """The data sets return whole batches."""
    return batch
