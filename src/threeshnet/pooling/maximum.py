"""Maximum pooling, channel by channel."""

from __future__ import annotations

from torch import Tensor, nn

from threeshnet.records import TokenSet


class MaximumPooling(nn.Module):
    """The largest value of each channel over the real tokens: [B, N, D] -> [B, D]."""

    def forward(self, tokens: TokenSet) -> Tensor:
        return tokens.values.masked_fill(~tokens.mask.unsqueeze(-1), float("-inf")).amax(dim=1)
