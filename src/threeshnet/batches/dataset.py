"""Data sets over shards: caption-image pairs for training, and single images and captions for evaluation."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from threeshnet.batches.augment import AlterWords, DropTokens
from threeshnet.batches.collate import collate_images
from threeshnet.batches.tokenizers import Wordpieces
from threeshnet.errors import ConfigError
from threeshnet.records import Batch, ImageArrays, ImageBatch, TokenSet
from threeshnet.shards.reader import ShardedSplit
from threeshnet.shards.texts import Texts


class CaptionDataset(Dataset[Batch]):
    """Every caption of some splits with its image; torch asks for a whole batch of (epoch, row) at a time.

    Images and captions are numbered through the splits in their order. The augmentation of a pair, and the view of the
    image that it gets, depend on (seed, epoch, caption number) alone.
    """

    def __init__(
        self,
        *,
        splits: Sequence[ShardedSplit],
        tokenizer: Wordpieces,
        fields: Collection[str],
        drop_tokens: DropTokens | None = None,
        alter_words: AlterWords | None = None,
        seed: int = 0,
        limit_images: int | None = None,
        views: Sequence[Sequence[ShardedSplit]] = (),
    ) -> None:
        """`limit_images` takes the first images alone, with all their captions; None takes all.

        `views` are the same splits in the shards of each view. A pair gets the photo or one of its views, with equal
        probability. Raises ConfigError for a `limit_images` below 1.
        """
        if limit_images is not None and limit_images < 1:
            raise ConfigError(f"limit_train_images={limit_images} must be at least 1; null takes all images")
        self.splits, self.tokenizer, self.fields = list(splits), tokenizer, tuple(fields)
        self.seen_as = [self.splits, *(list(view) for view in views)]
        self.drop_tokens, self.alter_words, self.seed = drop_tokens, alter_words, seed
        self.starts = np.cumsum([0] + [split.images for split in self.splits])
        numbered = [split.owners + np.int32(start) for split, start in zip(self.splits, self.starts, strict=False)]
        self.owners = np.concatenate(numbered).astype(np.int32)
        self.texts = Texts.joined([split.caption_texts for split in self.splits])
        self.rows = np.arange(len(self.owners), dtype=np.int32)
        if limit_images is not None:
            self.rows = np.flatnonzero(self.owners < limit_images).astype(np.int32)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> Batch:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[tuple[int, int]]) -> Batch:
        """A batch of B (epoch, row); row counts the captions of this data set. Features keep the stored dtype."""
        rows = self.rows[[row for _, row in items]].astype(np.int64)
        owners = self.owners[rows].astype(np.int64)
        generators = [
            np.random.default_rng([self.seed, epoch, row]) for (epoch, _), row in zip(items, rows.tolist(), strict=True)
        ]
        captions = self._captions(rows, generators)
        images = self._images(owners, generators)
        return Batch(images, captions, torch.from_numpy(owners), torch.from_numpy(rows))

    def photos(self, owners: Sequence[int]) -> ImageBatch:
        """Images by ascending number, as they are: no view of them, no token dropped."""
        return collate_images(self._read(np.asarray(owners, dtype=np.int64)), as_stored=True)

    def image(self, owner: int) -> str:
        """An image's id, shard and row, for a message."""
        home = int(np.searchsorted(self.starts, owner, side="right")) - 1
        number = owner - int(self.starts[home])
        split = self.splits[home]
        file, row = split.home(number)
        return f"image {split.image_ids[number]} ({file}, row {row})"

    def _captions(self, rows: np.ndarray, generators: Sequence[np.random.Generator]) -> TokenSet:
        sentences = self.tokenizer.encode([self.texts[row] for row in rows])
        if self.alter_words is None:
            return self.tokenizer.pad([sentence.ids for sentence in sentences])
        alter = self.alter_words
        pairs = zip(sentences, generators, strict=True)
        return self.tokenizer.pad([alter(sentence.ids, sentence.words, generator) for sentence, generator in pairs])

    def _images(self, owners: np.ndarray, generators: Sequence[np.random.Generator]) -> ImageBatch:
        # Views are numbered one after the other, each with all images.
        numbers, rows = np.unique(owners + self._views(generators) * self.starts[-1], return_inverse=True)
        arrays = self._read(numbers)
        if self.drop_tokens is None:
            return collate_images(arrays, rows, as_stored=True)
        drop = self.drop_tokens
        return collate_images(arrays, rows, keep=lambda item, count: drop(count, generators[item]), as_stored=True)

    def _views(self, generators: Sequence[np.random.Generator]) -> np.ndarray:
        """Number of the view of each pair [B], 0 for the photo itself; without views no random number is drawn."""
        many = len(self.seen_as)
        return np.array([generator.integers(many) if many > 1 else 0 for generator in generators], dtype=np.int64)

    def _read(self, numbers: np.ndarray) -> ImageArrays:
        """Images by ascending number through all views and splits, with one read of each split."""
        parts = []
        for seen_as, view in enumerate(self.seen_as):
            of_view = numbers[numbers // self.starts[-1] == seen_as] - seen_as * self.starts[-1]
            homes = np.searchsorted(self.starts, of_view, side="right") - 1
            parts += [
                view[home].read((of_view[homes == home] - self.starts[home]).tolist(), self.fields, extras=False)
                for home in np.unique(homes)
            ]
        return parts[0] if len(parts) == 1 else _join(parts)


class ImageDataset(Dataset[tuple[ImageBatch, Tensor]]):
    """Each image of a split once."""

    def __init__(self, *, split: ShardedSplit, fields: Collection[str]) -> None:
        self.split, self.fields = split, tuple(fields)

    def __len__(self) -> int:
        return self.split.images

    def __getitems__(self, numbers: Sequence[int]) -> tuple[ImageBatch, Tensor]:
        """Images and their numbers [B] int64."""
        arrays = self.split.read(numbers, self.fields, extras=False)
        return collate_images(arrays, as_stored=True), torch.tensor(numbers, dtype=torch.int64)


class TextDataset(Dataset[tuple[TokenSet, Tensor]]):
    """Each caption of a split once, without augmentation."""

    def __init__(self, *, split: ShardedSplit, tokenizer: Wordpieces) -> None:
        self.texts, self.tokenizer = Texts.joined([split.caption_texts]), tokenizer

    def __len__(self) -> int:
        return len(self.texts)

    def by_length(self) -> np.ndarray:
        """Caption numbers [captions], short sentences first: batches of similar length need little padding."""
        return np.argsort(self.texts.lengths, kind="stable")

    def __getitems__(self, numbers: Sequence[int]) -> tuple[TokenSet, Tensor]:
        """Wordpiece ids and the numbers of the captions [B] int64."""
        return self.tokenizer([self.texts[number] for number in numbers]), torch.tensor(numbers, dtype=torch.int64)


def _join(parts: Sequence[ImageArrays]) -> ImageArrays:
    joined = {}
    for name in ImageArrays._fields:
        values = [getattr(part, name) for part in parts]
        if any(value is None for value in values):
            joined[name] = None
        elif isinstance(values[0], list):
            joined[name] = [array for value in values for array in value]
        else:
            joined[name] = np.concatenate(values)
    return ImageArrays(**joined)
