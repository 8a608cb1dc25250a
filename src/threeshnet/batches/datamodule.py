"""The shards of one data set as Lightning's loaders."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from threeshnet.batches.augment import AlterWords, DropTokens
from threeshnet.batches.dataset import CaptionDataset, ImageDataset, TextDataset
from threeshnet.batches.loader import TrainingLoader
from threeshnet.batches.order import make_order
from threeshnet.batches.readahead import MEGABYTE, Readahead
from threeshnet.batches.sampler import CaptionBatches, EveryItemOnce
from threeshnet.batches.tokenizers import Wordpieces
from threeshnet.batches.workers import Loader
from threeshnet.errors import ConfigError, Problems, one_of
from threeshnet.shards.manifest import Manifest, make_view, open_view
from threeshnet.shards.reader import ShardedSplit, open_shards

TEST_SPLITS = ("test", "testall")
BATCHES_AHEAD = 2  # of each worker, where the memory for them is allowed: more only fills it
log = logging.getLogger(__name__)


class RetrievalDataModule(pl.LightningDataModule):
    """Training pairs from `train_splits`; images and captions, each once, from `dev_split` and `test_split`.

    The samplers deal out batches to the processes themselves: build the Trainer with `use_distributed_sampler=False`.
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
        readahead_megabytes: int = 1280,
        prefetch_megabytes: int = 1024,
        start_method: str | None = None,
        views: Sequence[str] = (),
        scored_views: Sequence[str] = (),
    ) -> None:
        """`shards`: the folder of the data set or of several; `fields` among region, grid, seg.

        `batch_size` counts the captions of all processes together, `evaluation_batch_size` the images or captions of
        one; `workers` are processes for each loader, started by `start_method`: fork, spawn or forkserver, None is
        Python's own. `order` is shuffle or blocks (of `block_images` neighbours, mixed in windows of
        `window_captions`). `readahead_megabytes` are announced to the disk ahead of training, and finished batches wait
        in at most `prefetch_megabytes` of memory. `views` are data sets beside this one with other views of the same
        photos, to train with; `scored_views` are those that dev and test are seen in as well.

        Opens the manifest at once: raises DataError when it is missing and ConfigError for splits or fields that it
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
        self.readahead_megabytes, self.prefetch_megabytes = readahead_megabytes, prefetch_megabytes
        self.start_method = start_method
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
        rank, world_size = self._place()
        batches = CaptionBatches(
            dataset.owners[dataset.rows],
            batch_size=self.batch_size,
            seed=self.seed,
            drop_last=self.drop_last,
            rank=rank,
            world_size=world_size,
            order=self.order,
        )
        ahead = 0 if self.views else self.readahead_megabytes  # which view is read is known when a batch is made
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
        """[(ImageBatch, numbers), (TokenSet, numbers)] of a split: each item in exactly one process, once.

        After them, one more loader of images for each of `scored_views`, in the same order.
        """
        split, (rank, world_size) = self.split(name), self._place()
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
        """These splits in the shards of a view.  Raises ConfigError where they are not of the same photos."""
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
                problems.add(f"the images of split {split.name!r} are others, or stand in another order")
        problems.raise_as(ConfigError, way_out)
        return there

    def _options(self, batch_bytes: int) -> dict[str, Any]:
        """Options of a loader whose batches take so many bytes."""
        ahead = self.prefetch_megabytes * MEGABYTE // max(1, batch_bytes * self.workers)
        return {
            "num_workers": self.workers,
            "collate_fn": _as_is,
            "persistent_workers": self.workers > 0,
            # At least one: a worker without a batch to make does nothing.
            "prefetch_factor": max(1, min(BATCHES_AHEAD, ahead)) if self.workers else None,
            "multiprocessing_context": self.start_method if self.workers else None,
            "pin_memory": torch.cuda.is_available(),
            # Loaders draw a number for their workers when they start: not from the generator of the model's dropout.
            "generator": torch.Generator().manual_seed(self.seed),
        }

    def _place(self) -> tuple[int, int]:
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
        problems.extend(
            f"{name}={getattr(self, name)} must not be negative"
            for name in ("workers", "readahead_megabytes", "prefetch_megabytes")
            if getattr(self, name) < 0
        )
        if self.start_method not in (None, *multiprocessing.get_all_start_methods()):
            problems.add(one_of("start_method", self.start_method, multiprocessing.get_all_start_methods()))
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
    """Why shards of a view cannot be read in the place of a set's own: other extractors, widths or classes."""
    makers = {field: (view.extractors.get(field), own.extractors.get(field)) for field in fields}
    yield from (f"{field} is made by {one}, ours by {other}" for field, (one, other) in makers.items() if one != other)
    widths = {"region": "region_width", "grid": "grid_size", "seg": "class_table"}
    for name in (widths[field] for field in fields):
        one, other = getattr(view, name), getattr(own, name)
        if one != other:
            yield f"{name} is {one}, ours {other}"


def held_out(name: str, splits: Collection[str]) -> str:
    """The split that `name` stands for: shards that hold out one split alone have it under either of its two names.

    >>> held_out("test", ["train", "testall"]), held_out("test", ["test", "testall"]), held_out("dev", ["testall"])
    ('testall', 'test', 'dev')
    """
    there = [split for split in TEST_SPLITS if split in splits]
    return there[0] if name in TEST_SPLITS and name not in there and len(there) == 1 else name


def _as_is(batch: Any) -> Any:
    """The data sets answer with whole batches."""
    return batch
