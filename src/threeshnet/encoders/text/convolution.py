"""A convolution over wordpieces (Kim, EMNLP 2014, arXiv 1408.5882), in which words that stand near each other meet."""

from __future__ import annotations

from torch import Tensor, nn

from threeshnet.errors import ConfigError
from threeshnet.nn.masking import unit, zero_padding
from threeshnet.records import TokenSet


class ConvolutionTextEncoder(nn.Module):
    """Embedding, a convolution over `near` wordpieces, ReLU, Linear, pooling, unit length.

    Raises ConfigError for an even `near`, which has no middle.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        dim: int,
        pooling: nn.Module,
        word_width: int = 128,
        hidden: int = 512,
        near: int = 9,
    ) -> None:
        super().__init__()
        if near < 1 or near % 2 == 0:
            raise ConfigError(f"text.encoder.near={near} must be an odd number of wordpieces, as 9")
        self.embedding = nn.Embedding(vocabulary_size, word_width)
        self.convolution = nn.Conv1d(word_width, hidden, near, padding=near // 2)
        self.linear = nn.Linear(hidden, dim)
        self.pooling = pooling

    def forward(self, captions: TokenSet) -> Tensor:
        """Wordpiece ids [B, N] -> embeddings [B, D]."""
        words = zero_padding(self.embedding(captions.values), captions.mask)
        hidden = self.convolution(words.transpose(1, 2)).relu().transpose(1, 2)
        return unit(self.pooling(TokenSet(self.linear(hidden), captions.mask)))
