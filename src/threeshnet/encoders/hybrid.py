"""Regions and grid cells together: two branches, one embedding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from threeshnet.nn.masking import unit
from threeshnet.records import ImageBatch


class HybridEncoder(nn.Module):
    """unit(sum of the branches' unit embeddings), used alike in loss, evaluation and index."""

    def __init__(self, *, branches: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(dict(branches))

    def forward(self, images: ImageBatch) -> Tensor:
        """Embeddings [B, D], unit length."""
        return unit(torch.stack([branch(images) for branch in self.branches.values()]).sum(dim=0))
