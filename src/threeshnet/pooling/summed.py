"""Several poolings of the same set, added up."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from threeshnet.records import TokenSet


class SummedPooling(nn.Module):
    """The sum of what `poolings` make of a set: [B, N, D] -> [B, D].

    With the mean beside GPO a pre-trained text encoder that was made for mean pooling keeps what it was made for.
    """

    def __init__(self, *, poolings: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.poolings = nn.ModuleDict(dict(poolings))

    def forward(self, tokens: TokenSet) -> Tensor:
        return torch.stack([pooling(tokens) for pooling in self.poolings.values()]).sum(dim=0)
