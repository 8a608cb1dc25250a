"""Encoding a whole split through Lightning: on any device, in any number of processes."""

from __future__ import annotations

import pytorch_lightning as pl
from torch import Tensor

from threeshnet.batches.datamodule import RetrievalDataModule
from threeshnet.encoders.model import RetrievalModel
from threeshnet.nn.masking import unit
from threeshnet.records import ImageBatch, TokenSet
from threeshnet.training.collect import Collector, Embeddings

CAPTION_LOADER = 1  # of the data module's evaluation loaders: all others are of images


class EncodingModule(pl.LightningModule):
    """Encodes the images and the captions of a split, each once; `embeddings` holds them afterwards.

    Where the data module has `scored_views`, an image's embedding is the mean of those of the photo and of its views,
    at unit length. (Who classifies photos averages over crops: Krizhevsky et al., NeurIPS 2012, section 4.1.)
    """

    def __init__(self, *, model: RetrievalModel) -> None:
        super().__init__()
        self.model = model
        self.embeddings: Embeddings | None = None
        self._collectors: tuple[Collector, ...] = ()

    def test_step(self, batch: tuple[ImageBatch | TokenSet, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """One batch of captions (loader 1) or of images (loader 0, and those of other views) with their numbers."""
        items, numbers = batch
        encoder = self.model.text_encoder if dataloader_idx == CAPTION_LOADER else self.model.image_encoder
        self._collectors[dataloader_idx].add(encoder(items), numbers)

    def on_test_start(self) -> None:
        self.collect_anew()

    def on_test_epoch_end(self) -> None:
        assert self.split_name("test") is not None
        self.embeddings = self.gather(self.split_name("test"))

    def collect_anew(self) -> None:
        """Forget what was encoded: a collector for each loader of an evaluation."""
        self._collectors = tuple(Collector() for _ in range(2 + len(self.datamodule.scored_views)))

    def gather(self, split: str | None) -> Embeddings:
        """Embeddings of the whole split, from all processes."""
        sizes = self.datamodule.split(str(split))
        images, captions, *views = self._collectors
        seen = [each.gather(sizes.images) for each in (images, *views)]
        return Embeddings(unit(sum(seen[1:], seen[0])) if views else seen[0], captions.gather(sizes.captions))

    def split_name(self, stage: str) -> str | None:
        """The split that the data module scores in a stage."""
        return self.datamodule.test_split if stage == "test" else self.datamodule.dev_split

    @property
    def datamodule(self) -> RetrievalDataModule:
        """The data module of the running trainer."""
        return self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
