"""Both sides as one module, each usable alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from threeshnet.batches.tokenizers import Wordpieces
from threeshnet.records import ImageBatch


class RetrievalModel(nn.Module):
    """A dual encoder: images and sentences into one space, without one looking at the other."""

    def __init__(self, *, image_encoder: nn.Module, text_encoder: nn.Module, tokenizer: Wordpieces) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer

    @torch.inference_mode()
    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embeddings [B, D], unit length, float32, on the model's device."""
        return self.image_encoder(images.to(self.device)).float()

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Embeddings [B, D] of sentences, unit length, float32, on the model's device.

        Sentences are encoded shortest first, `batch_size` at a time, and returned in the order given.
        """
        if isinstance(texts, str):
            raise TypeError("encode_texts takes a list of sentences, not one string")
        pieces = [encoded.ids for encoded in self.tokenizer.encode(list(texts))]
        order = sorted(range(len(pieces)), key=lambda row: len(pieces[row]))
        encoded = [
            self.text_encoder(
                self.tokenizer.pad([pieces[row] for row in order[start : start + batch_size]]).to(self.device)
            )
            for start in range(0, len(order), batch_size)
        ]
        if not encoded:
            raise ValueError("encode_texts got no sentence")
        sorted_embeddings = torch.cat(encoded).float()
        return torch.empty_like(sorted_embeddings).index_copy_(
            0, torch.tensor(order, device=self.device), sorted_embeddings
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device
