"""Parts of the pooled set: local, fused, scene and category tokens (3SHNet, arXiv 2404.17273, section 3.4).

A part takes local tokens and projected tokens, both [B, N, D], and the images. It returns a set [B, n, D].
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import nn

from threeshnet.nn.masking import all_real
from threeshnet.nn.mlp import MLP, LayerNormEmbedding
from threeshnet.records import ImageBatch, TokenSet


class LocalTokens(nn.Module):
    """The region or grid tokens themselves, [B, N, D]."""

    def forward(self, local: TokenSet, projected: TokenSet, images: ImageBatch) -> TokenSet:
        return local


class FusedTokens(nn.Module):
    """MLP(sum of the fusions + local tokens), [B, N, D]; without any fusion the part is empty, [B, 0, D]."""

    def __init__(self, *, fusions: Mapping[str, nn.Module], dim: int) -> None:
        super().__init__()
        self.fusions = nn.ModuleDict(dict(fusions))
        self.mlp = MLP(width=dim, hidden=dim // 2, out=dim) if fusions else None

    def forward(self, local: TokenSet, projected: TokenSet, images: ImageBatch) -> TokenSet:
        if self.mlp is None:
            return TokenSet(local.values[:, :0], local.mask[:, :0])
        guided = reduce(torch.add, (fusion(projected, images) for fusion in self.fusions.values()))
        return TokenSet(self.mlp(guided + local.values), local.mask)


class SceneTokens(nn.Module):
    """One token for each of the 7x7 cells of `seg/semantic`: [B, 49, D]."""

    def __init__(self, *, classes: int, dim: int) -> None:
        super().__init__()
        self.embed = LayerNormEmbedding(width=classes, dim=dim)
        self.mlp = MLP(width=dim, hidden=dim // 2, out=dim)

    def forward(self, local: TokenSet, projected: TokenSet, images: ImageBatch) -> TokenSet:
        assert images.seg_semantic is not None, "scene tokens need seg/semantic"
        cells = self.embed(images.seg_semantic.flatten(2).transpose(1, 2))
        return all_real(self.mlp(cells) + cells)


class CategoryToken(nn.Module):
    """One token for the classes that occur in the photo: [B, 1, D]."""

    def __init__(self, *, classes: int, dim: int) -> None:
        super().__init__()
        self.embed = LayerNormEmbedding(width=classes, dim=dim)

    def forward(self, local: TokenSet, projected: TokenSet, images: ImageBatch) -> TokenSet:
        assert images.seg_categories is not None, "the category token needs seg/categories"
        return all_real(self.embed(images.seg_categories.to(local.values.dtype)).unsqueeze(1))
