"""A Lightning data module over the shards of one data set."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
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
from threeshnet.shards.manifest import Manifest, make_view, open_shards, open_view
from threeshnet.shards.reader import ShardedSplit

TEST_SPLITS = ("test", "testall")
READAHEAD_MEGABYTES = 1280  # two windows of 4,096 captions with 36 x 2048 float16 regions each
PREFETCH_MEGABYTES = 1024  # of finished batches that wait for training
BATCHES_AHEAD = 2  # of each worker, within PREFETCH_MEGABYTES
log = logging.getLogger(__name__)


class RetrievalDataModule(pl.LightningDataModule):
    """Training pairs from `train_splits`; images and captions, each once, from `dev_split` and `test_split`.

    The batch samplers divide batches among the processes: the Trainer needs `use_distributed_sampler=False`.
    """

    def __init__(
        self,
        *,
        shards: Path | str,
        dataset: str,
        tokenizer: Wordpieces,
        fields: Collection[str],
        train_splits: Sequence[str] = ("train",),
        dev_split: str | None = "dev",
        test_split: str | None = "test",
        batch_size: int = 128,
        evaluation_batch_size: int = 256,
        workers: int = 0,
        seed: int = 0,
        drop_last: bool = True,
        drop_tokens: DropTokens | None = None,
        alter_words: AlterWords | None = None,
        limit_train_images: int | None = None,
        order: str = "shuffle",
        block_images: int = 32,
        window_captions: int = 4096,
        views: Sequence[str] = (),
        scored_views: Sequence[str] = (),
    ) -> None:
        """`shards` is the folder of the data set or of several; `fields` are among region, grid, seg.

        `batch_size` counts the captions of all processes together, `evaluation_batch_size` the images or captions of
        one process; `workers` are processes of each loader. `order` is shuffle, or blocks of `block_images` neighbours
        that are shuffled in windows of `window_captions`. `views` name the shards of random crops to train with, and
        `scored_views` those that dev and test images are averaged with.

        Opens the manifest at once. Raises DataError when it is missing, and ConfigError for splits or fields that it
        does not have.
        """
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a tiny split may leave a process without items
        self.folder = open_shards(shards, dataset)
        self.manifest = Manifest.load(self.folder)
        self.tokenizer, self.fields = tokenizer, tuple(fields)
        self.train_splits, self.dev_split = tuple(train_splits), dev_split
        self.test_split = self._test_split(test_split)
        self.batch_size, self.evaluation_batch_size = batch_size, evaluation_batch_size
        self.workers, self.seed, self.drop_last = workers, seed, drop_last
        self.drop_tokens, self.alter_words = drop_tokens, alter_words
        self.limit_train_images = limit_train_images
        self.order = make_order(order, block_images=block_images, window_captions=window_captions)
        self._check()
        self.views = {name: open_view(self.folder, name) for name in views}
        self.scored_views = {name: open_view(self.folder, name) for name in scored_views}
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
            drop_tokens=self.drop_tokens,
            alter_words=self.alter_words,
            seed=self.seed,
            limit_images=self.limit_train_images,
            views=[self._seen_as(view, folder, splits) for view, folder in self.views.items()],
        )
        rank, world_size = self._process()
        batches = CaptionBatches(
            dataset.owners[dataset.rows],
            batch_size=self.batch_size,
            seed=self.seed,
            drop_last=self.drop_last,
            rank=rank,
            world_size=world_size,
            order=self.order,
        )
        ahead = 0 if self.views else READAHEAD_MEGABYTES  # the view of a pair is drawn only when its batch is made
        readahead = Readahead(splits=splits, fields=self.fields, megabytes=ahead)
        size = splits[0].image_bytes(self.fields) * self.batch_size // world_size
        return TrainingLoader(dataset, batches=batches, readahead=readahead, **self._options(size))

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
        share: dict[str, Any] = {"batch_size": self.evaluation_batch_size, "rank": rank, "world_size": world_size}
        options = self._options(split.image_bytes(self.fields) * self.evaluation_batch_size)
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
        found = Manifest.load(folder)
        problems.extend(
            f"there is no split {split.name!r}; there are: {', '.join(sorted(found.splits))}"
            for split in splits
            if split.name not in found.splits
        )
        problems.extend(unlike(found, self.manifest, self.fields))
        problems.raise_as(ConfigError, way_out)
        there = [ShardedSplit(folder, split.name) for split in splits]
        for split, seen in zip(splits, there, strict=True):
            if list(split.image_ids) != list(seen.image_ids):
                problems.add(f"the images of split {split.name!r} differ, or their order does")
        problems.raise_as(ConfigError, way_out)
        return there

    def _options(self, batch_bytes: int) -> dict[str, Any]:
        """torch's options of a loader whose batches take `batch_bytes` bytes."""
        ahead = PREFETCH_MEGABYTES * MEGABYTE // max(1, batch_bytes * self.workers)
        return {
            "num_workers": self.workers,
            "collate_fn": _as_is,
            "persistent_workers": self.workers > 0,
            "prefetch_factor": max(1, min(BATCHES_AHEAD, ahead)) if self.workers else None,
            "pin_memory": torch.cuda.is_available(),
            # A loader draws a seed for its workers when it starts: not from the generator of the model's dropout.
            "generator": torch.Generator().manual_seed(self.seed),
        }

    def _process(self) -> tuple[int, int]:
        """Rank of this process and number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _test_split(self, name: str | None) -> str | None:
        found = None if name is None else held_out(name, self.manifest.splits)
        if found != name:
            log.warning("%s: there is no split %r; taking %r, the only held-out split there", self.folder, name, found)
        return found

    def _check(self) -> None:
        problems = Problems(f"{self.folder}")
        problems.extend(
            f"fields: {field!r} is not in these shards, which hold {', '.join(sorted(self.manifest.fields))}"
            for field in self.fields
            if field not in self.manifest.fields
        )
        if self.evaluation_batch_size < 1:
            problems.add(f"evaluation_batch_size={self.evaluation_batch_size} must be at least 1")
        if self.workers < 0:
            problems.add(f"workers={self.workers} must not be negative")
        problems.raise_as(ConfigError, "`make data` with another extractor makes other fields.")
        self._check_splits([*self.train_splits, *filter(None, [self.dev_split, self.test_split])])

    def _check_splits(self, names: Sequence[str]) -> None:
        known = sorted(self.manifest.splits)
        problems = Problems(f"{self.folder}")
        problems.extend(
            f"there is no split {name!r}; there are: {', '.join(known)}" for name in names if name not in known
        )
        problems.raise_as(
            ConfigError, "Set train_splits, dev_split (null for none) and test_split to splits that exist."
        )


def unlike(view: Manifest, own: Manifest, fields: Collection[str]) -> Iterator[str]:
    """Why a view's shards do not replace the data set's: other extractors, widths or classes."""
    makers = {field: (view.extractors.get(field), own.extractors.get(field)) for field in fields}
    yield from (f"{field} is made by {one}, ours by {other}" for field, (one, other) in makers.items() if one != other)
    widths = {"region": "region_width", "grid": "grid_size", "seg": "class_table"}
    for name in (widths[field] for field in fields):
        one, other = getattr(view, name), getattr(own, name)
        if one != other:
            yield f"{name} is {one}, ours {other}"


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
