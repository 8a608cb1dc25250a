"""The BiGRU text encoder of VSE++ (arXiv 1707.05612) and VSE-infinity (arXiv 2011.04305)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from threeshnet.nn.masking import unit
from threeshnet.records import TokenSet


class BiGRUTextEncoder(nn.Module):
    """Embedding, BiGRU with averaged directions, pooling, unit length.

    It reads wordpieces, where the papers read whole words: all text encoders share a tokenizer, and no word is unknown.
    """

    def __init__(self, *, vocabulary_size: int, dim: int, pooling: nn.Module, word_width: int = 300) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, word_width)
        self.gru = nn.GRU(word_width, dim, batch_first=True, bidirectional=True)
        self.pooling = pooling
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, captions: TokenSet) -> Tensor:
        """Wordpiece ids [B, N] -> embeddings [B, D]."""
        packed = pack_padded_sequence(
            self.embedding(captions.values), captions.lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        both, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=captions.values.shape[1])
        forward, backward = both.chunk(2, dim=-1)
        return unit(self.pooling(TokenSet((forward + backward) / 2, captions.mask)))
