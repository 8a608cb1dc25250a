"""Mean pooling, as in VSE++ (Faghri et al., arXiv 1707.05612)."""

from __future__ import annotations

from torch import Tensor, nn

from threeshnet.nn.masking import zero_padding
from threeshnet.records import TokenSet


class MeanPooling(nn.Module):
    """The mean of the real tokens: [B, N, D] -> [B, D]."""

    def forward(self, tokens: TokenSet) -> Tensor:
        return zero_padding(*tokens).sum(dim=1) / tokens.lengths.clamp(min=1).unsqueeze(1)
