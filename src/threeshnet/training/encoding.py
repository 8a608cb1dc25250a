"""Encoding a whole split through Lightning: on any device, in any number of processes."""

from __future__ import annotations

import pytorch_lightning as pl
from torch import Tensor

from threeshnet.batches.datamodule import RetrievalDataModule
from threeshnet.encoders.model import RetrievalModel
from threeshnet.records import ImageBatch, TokenSet
from threeshnet.training.collect import Collector, Embeddings

IMAGE_LOADER, CAPTION_LOADER = 0, 1  # order of the data module's evaluation loaders


class EncodingModule(pl.LightningModule):
    """Encodes the images and the captions of a split, each once; `embeddings` holds them afterwards."""

    def __init__(self, *, model: RetrievalModel) -> None:
        super().__init__()
        self.model = model
        self.embeddings: Embeddings | None = None
        self._collectors: tuple[Collector, Collector] = (Collector(), Collector())

    def test_step(self, batch: tuple[ImageBatch | TokenSet, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """One batch of images (loader 0) or of captions (loader 1) with their numbers."""
        items, numbers = batch
        encoder = self.model.image_encoder if dataloader_idx == IMAGE_LOADER else self.model.text_encoder
        self._collectors[dataloader_idx].add(encoder(items), numbers)

    def on_test_start(self) -> None:
        self._collectors = (Collector(), Collector())

    def on_test_epoch_end(self) -> None:
        assert self.split_name("test") is not None
        self.embeddings = self.gather(self.split_name("test"))

    def gather(self, split: str | None) -> Embeddings:
        """Embeddings of the whole split, from all processes."""
        sizes = self.datamodule.split(str(split))
        images, captions = self._collectors
        return Embeddings(images.gather(sizes.images), captions.gather(sizes.captions))

    def split_name(self, stage: str) -> str | None:
        """The split that the data module scores in a stage."""
        return self.datamodule.test_split if stage == "test" else self.datamodule.dev_split

    @property
    def datamodule(self) -> RetrievalDataModule:
        """The data module of the running trainer."""
        return self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
