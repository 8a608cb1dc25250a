"""How VSeM turns a score of a token into its weight: the `activation` of the config."""

from __future__ import annotations

from torch import Tensor, nn


class Sigmoid(nn.Module):
    """Every token for itself: scores [B, N] -> weights in (0, 1), padding included."""

    def forward(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.sigmoid()


class Softmax(nn.Module):
    """Tokens compete: scores [B, N] -> weights that sum to 1 over the real tokens.

    `sharpness` multiplies the scores before the exponential (4 in the authors' implementation).
    """

    def __init__(self, *, sharpness: float = 4.0) -> None:
        super().__init__()
        self.sharpness = sharpness

    def forward(self, scores: Tensor, mask: Tensor) -> Tensor:
        return (self.sharpness * scores).masked_fill(~mask, float("-inf")).softmax(dim=-1)
