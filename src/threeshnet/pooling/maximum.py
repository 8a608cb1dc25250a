"""Maximum pooling, channel by channel."""

from __future__ import annotations

from torch import Tensor, nn

from threeshnet.records import TokenSet


class MaximumPooling(nn.Module):
    """The largest value of each channel over the real tokens: [B, N, D] -> [B, D]; 0 where there are none."""

    def forward(self, tokens: TokenSet) -> Tensor:
        largest = tokens.values.masked_fill(~tokens.mask.unsqueeze(-1), float("-inf")).amax(dim=1)
        return largest.masked_fill(~tokens.mask.any(dim=1, keepdim=True), 0.0)
