"""The dual encoder: an image encoder and a text encoder, each usable alone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from threeshnet.batches.tokenizers import Wordpieces
from threeshnet.records import ImageBatch


class RetrievalModel(nn.Module):
    """A dual encoder: images and sentences are encoded separately into one space."""

    def __init__(self, *, image_encoder: nn.Module, text_encoder: nn.Module, tokenizer: Wordpieces) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embeddings [B, D] of unit length, float32, on the model's device; with gradient in training mode only."""
        with self._gradient_in_training():
            return self.image_encoder(images.to(self.device)).float()

    def encode_texts(self, texts: Iterable[str], batch_size: int = 256) -> Tensor:
        """Embeddings [B, D] of sentences, of unit length, float32, on the model's device, in the order given.

        Sentences are encoded shortest first, `batch_size` at a time. Raises ValueError for an empty list, and TypeError
        for a single string.
        """
        if isinstance(texts, str):
            raise TypeError("encode_texts takes a list of sentences, not one string")
        sentences = list(texts)  # a list, tuple, array, column of a table, …
        if not sentences:
            raise ValueError("encode_texts got no sentence")
        if others := [text for text in sentences if not isinstance(text, str)]:
            raise TypeError(f"encode_texts takes sentences, not {type(others[0]).__name__} ({others[0]!r})")
        pieces = [encoded.ids for encoded in self.tokenizer.encode(sentences)]
        order = torch.tensor([len(ids) for ids in pieces]).argsort(stable=True)
        with self._gradient_in_training():
            encoded = [
                self.text_encoder(self.tokenizer.pad([pieces[row] for row in rows.tolist()]).to(self.device)).float()
                for rows in order.split(batch_size)
            ]
            return torch.cat(encoded)[order.argsort().to(self.device)]

    def _gradient_in_training(self) -> torch.set_grad_enabled:
        return torch.set_grad_enabled(self.training and torch.is_grad_enabled())

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device
