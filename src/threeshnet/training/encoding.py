"""Encode a whole split through Lightning: on any device, in any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from threeshnet.batches.datamodule import RetrievalDataModule
from threeshnet.encoders.model import RetrievalModel
from threeshnet.errors import DataError
from threeshnet.nn.collectives import add_up, gather_objects, process_count, process_index
from threeshnet.nn.masking import unit
from threeshnet.records import ImageBatch, TokenSet
from threeshnet.threads import adapt_threads

CAPTION_LOADER = 1  # of the data module's evaluation loaders: all others are of images


class Embeddings(NamedTuple):
    """Both sides of a split, in its order."""

    images: Tensor  # [G, D]
    captions: Tensor  # [Q, D]


class EncodingModule(pl.LightningModule):
    """Encodes the images and the captions of a split, each once; `embeddings` holds them afterwards.

    With `scored_views` in the data module, an image's embedding is the mean over the photo and its views, at unit
    length. This is test-time augmentation (Krizhevsky et al., NeurIPS 2012, section 4.1).
    """

    def __init__(self, *, model: RetrievalModel) -> None:
        super().__init__()
        self.model = model
        self.embeddings: Embeddings | None = None
        self._collectors: tuple[Collector, ...] = ()

    def test_step(self, batch: tuple[ImageBatch | TokenSet, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """One batch of captions (loader 1) or of images (loader 0, and those of other views) with their numbers."""
        adapt_threads()
        items, numbers = batch
        encoder = self.model.text_encoder if dataloader_idx == CAPTION_LOADER else self.model.image_encoder
        self._collectors[dataloader_idx].add(encoder(items), numbers)

    def on_test_start(self) -> None:
        self.start_collecting()

    def on_test_epoch_end(self) -> None:
        assert self.split_name("test") is not None
        self.embeddings = self.gather(self.split_name("test"))

    def start_collecting(self) -> None:
        self._collectors = tuple(Collector() for _ in range(2 + len(self.datamodule.scored_views)))

    def gather(self, split: str | None) -> Embeddings:
        """Embeddings of the whole split, from all processes."""
        sizes = self.datamodule.split(str(split))
        images, captions, *views = self._collectors
        encoded = [each.gather(sizes.images) for each in (images, *views)]
        return Embeddings(unit(sum(encoded[1:], encoded[0])) if views else encoded[0], captions.gather(sizes.captions))

    def split_name(self, stage: str) -> str | None:
        """The split that the data module scores in a stage."""
        return self.datamodule.test_split if stage == "test" else self.datamodule.dev_split

    @property
    def datamodule(self) -> RetrievalDataModule:
        return self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]


class Collector:
    """Collects (embeddings, numbers) batch by batch in main memory, and orders them by number at the end."""

    def __init__(self) -> None:
        self.embeddings: list[Tensor] = []
        self.numbers: list[Tensor] = []

    def add(self, embeddings: Tensor, numbers: Tensor) -> None:
        """Embeddings [B, D] of the items `numbers` [B]."""
        self.embeddings.append(embeddings.detach().float().cpu())
        self.numbers.append(numbers.cpu())

    def gather(self, items: int) -> Tensor:
        """Embeddings [items, D] of all processes.  Raises DataError with the number of an item that is missing.

        Processes exchange numbers first, so each embedding travels once, and a process holds the split once.
        """
        embeddings, numbers = torch.zeros(0, 0), torch.zeros(0, dtype=torch.long)
        if self.numbers:
            embeddings, numbers = torch.cat(self.embeddings), torch.cat(self.numbers)
        if process_count() == 1:
            return in_order([(embeddings, numbers)], items)
        shares = gather_objects((numbers, embeddings.shape[1]))
        parts = [(torch.zeros(len(others), 0), others) for others, _ in shares]
        parts[process_index()] = (embeddings, numbers)
        return add_up(in_order(parts, items, width=max(width for _, width in shares)))


def in_order(parts: Sequence[tuple[Tensor, Tensor]], items: int, width: int | None = None) -> Tensor:
    """Rows [items, D] from (embeddings, numbers) pairs; an item that was encoded twice counts once.

    With `width` D, parts with embeddings [b, 0] are held by other processes: their rows are 0 here. Raises DataError
    when one of `items` was not encoded.

    >>> in_order([(torch.tensor([[2.0]]), torch.tensor([1])), (torch.tensor([[1.0]]), torch.tensor([0]))], 2)
    tensor([[1.],
            [2.]])
    """
    numbers = torch.cat([share for _, share in parts])
    missing = sorted(set(range(items)) - set(numbers.tolist()))
    if missing:
        raise DataError(f"{len(missing)} of {items} items were not encoded, the first of them number {missing[0]}")
    first = torch.full((items,), len(numbers)).scatter_reduce(0, numbers, torch.arange(len(numbers)), "amin")
    kept = torch.zeros(len(numbers), dtype=torch.bool)
    kept[first] = True
    result = torch.zeros(items, parts[0][0].shape[1] if width is None else width)
    for (embeddings, share), counts in zip(parts, kept.split([len(share) for _, share in parts]), strict=True):
        if embeddings.shape[1]:
            result[share[counts]] = embeddings[counts]
    return result
