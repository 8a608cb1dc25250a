"""VSeM: the content of the photo decides which tokens are highlighted (3SHNet, arXiv 2404.17273, section 3.2)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from threeshnet.nn.masking import zero_padding
from threeshnet.nn.mlp import MLP, LayerNormEmbedding
from threeshnet.records import ImageBatch, TokenSet


class SemanticFusion(nn.Module):
    """Weights each token by its similarity to a summary of the segmentation.

    The query is the mean class probability of the photo, embedded; the keys are the projected tokens. `activation` maps
    scores and mask, both [B, N], to weights [B, N].
    """

    def __init__(self, *, classes: int, dim: int, activation: nn.Module) -> None:
        super().__init__()
        self.summary = LayerNormEmbedding(width=classes, dim=dim)
        self.query = MLP(width=dim, hidden=dim // 2, out=dim)
        self.key = MLP(width=dim, hidden=dim // 2, out=dim)
        self.activation = activation
        self.gate = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.scale = 1 / math.sqrt(dim)

    def forward(self, tokens: TokenSet, images: ImageBatch) -> Tensor:
        """Projected tokens [B, N, D] and `seg_semantic` -> semantic part of the fused tokens [B, N, D]."""
        query, key, weights = self._attend(tokens, images)
        highlighted = weights.unsqueeze(-1) * key
        gated = highlighted * self.gate(highlighted).tanh() + query.unsqueeze(1)
        return self.out(zero_padding(gated, tokens.mask)).relu()

    def weights(self, tokens: TokenSet, images: ImageBatch) -> Tensor:
        """The weight of every token, [B, N], for pictures."""
        return self._attend(tokens, images)[2]

    def _attend(self, tokens: TokenSet, images: ImageBatch) -> tuple[Tensor, Tensor, Tensor]:
        assert images.seg_semantic is not None, "VSeM needs seg/semantic"
        # avg_pool2d, not mean(): it sums in the authors' order. The batch statistics of the query magnify the last bit
        # a hundredfold. That swaps near ties in GPO's sort, and their gradients (tests/golden, 3e-3 relative).
        height, width = map(int, images.seg_semantic.shape[-2:])  # numbers: in an ONNX export they are tensors
        summary = self.summary(F.avg_pool2d(images.seg_semantic, (height, width)).flatten(1))
        query = self.query(summary) + summary  # [B, D]
        key = self.key(tokens.values) + tokens.values  # [B, N, D]
        scores = (key @ query.unsqueeze(-1)).squeeze(-1) * self.scale
        return query, key, self.activation(scores, tokens.mask)
