"""The `activation` of VSeM: from the score of a token to its weight (3SHNet, arXiv 2404.17273, section 3.2)."""

from __future__ import annotations

from torch import Tensor, nn


class Sigmoid(nn.Module):
    """Scores [B, N] -> independent weights [B, N] in (0, 1), padding included."""

    def forward(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.sigmoid()


class Softmax(nn.Module):
    """Scores [B, N] -> weights [B, N] that sum to 1 over the real tokens.

    `sharpness` multiplies the scores before the exponential (4 in the authors' implementation).
    """

    def __init__(self, *, sharpness: float = 4.0) -> None:
        super().__init__()
        self.sharpness = sharpness

    def forward(self, scores: Tensor, mask: Tensor) -> Tensor:
        return (self.sharpness * scores).masked_fill(~mask, float("-inf")).softmax(dim=-1)
