"""The hybrid model: a region branch and a grid branch, and one embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from threeshnet.nn.masking import unit
from threeshnet.records import ImageBatch


class HybridEncoder(nn.Module):
    """The normalised sum of the branches' embeddings, in training and in evaluation alike."""

    def __init__(self, *, branches: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(dict(branches))

    def forward(self, images: ImageBatch) -> Tensor:
        """Embeddings [B, D], unit length."""
        return joined([branch(images) for branch in self.branches.values()])


def joined(embeddings: Sequence[Tensor]) -> Tensor:
    """The embeddings [B, D] of images from those of the branches."""
    return unit(torch.stack(list(embeddings)).sum(dim=0))
