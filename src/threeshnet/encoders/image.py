"""The image encoder of 3SHNet for one kind of token, regions or grid cells (arXiv 2404.17273, section 3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from threeshnet.errors import ConfigError, DataError, one_of
from threeshnet.nn.masking import concatenate, unit
from threeshnet.nn.mlp import MLP
from threeshnet.records import ImageBatch, TokenSet

SOURCES = ("regions", "grid")


class TokenProjection(nn.Module):
    """Features [B, N, width] -> (local tokens, projected tokens), both [B, N, D]: p = Linear(R), f = MLP(R) + p."""

    def __init__(self, *, width: int, dim: int) -> None:
        super().__init__()
        self.width = width
        self.linear = nn.Linear(width, dim)
        self.mlp = MLP(width=width, hidden=dim // 2, out=dim)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: TokenSet) -> tuple[TokenSet, TokenSet]:
        projected = self.linear(features.values)
        local = self.mlp(features.values) + projected
        return TokenSet(local, features.mask), TokenSet(projected, features.mask)


class ImageEncoder(nn.Module):
    """Projects the tokens of one source, adds the guided parts, and pools all tokens into one unit vector.

    `source` is the field of `ImageBatch` that is read. `project` computes local and projected tokens, and every module
    of `parts` adds tokens to the pooled set. With local tokens alone this is VSE-infinity (Chen et al., CVPR 2021).
    Every module of `boxes` adds a code of each token's box; the paper has none. Raises ConfigError for another `source`
    and for empty `parts`.
    """

    def __init__(
        self,
        *,
        source: str,
        project: nn.Module,
        parts: Mapping[str, nn.Module],
        pooling: nn.Module,
        boxes: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if source not in SOURCES:
            raise ConfigError(one_of("source", source, SOURCES))
        if not parts:
            raise ConfigError(
                "parts=[]: nothing is left to pool; keep at least one of local, fused, scene, category, segments"
            )
        self.source = source
        self.project = project
        self.parts = nn.ModuleDict(dict(parts))
        self.pooling = pooling
        self.boxes = nn.ModuleDict(dict(boxes or {}))

    def forward(self, images: ImageBatch) -> Tensor:
        """Embeddings [B, D] of unit length.  Raises DataError when the batch lacks the tokens or boxes."""
        return unit(self.pooling(concatenate(list(self.sets(images).values()))))

    def sets(self, images: ImageBatch) -> dict[str, TokenSet]:
        """The sets [B, n, D] that are pooled together, by the part that each comes from."""
        local, projected = self.tokens(images)
        return {name: part(local, projected, images) for name, part in self.parts.items()}

    def tokens(self, images: ImageBatch) -> tuple[TokenSet, TokenSet]:
        """Local and projected tokens, both [B, N, D], with their box codes."""
        local, projected = self.project(self.features(images))
        if not self.boxes:
            return local, projected
        boxes = images.region_boxes if self.source == "regions" else images.grid_boxes
        if boxes is None:
            raise DataError(
                f"the model reads the boxes of its {self.source}, and the batch has none; shards of published arrays "
                "may lack them: set boxes=[], or run make data with an extractor that gives boxes"
            )
        codes = torch.stack([module(boxes, projected, images) for module in self.boxes.values()]).sum(dim=0)
        return TokenSet(local.values + codes, local.mask), TokenSet(projected.values + codes, projected.mask)

    def features(self, images: ImageBatch) -> TokenSet:
        """The tokens of `source`.  Raises DataError when the batch lacks them."""
        features = getattr(images, self.source)
        if features is None:
            held = [name for name in SOURCES if getattr(images, name) is not None]
            raise DataError(f"the model reads {self.source}, the batch holds {', '.join(held) or 'neither'}")
        return features

    @torch.no_grad()
    def highlights(self, images: ImageBatch) -> dict[str, Tensor]:
        """Weights of VSeM (`semantic`, [B, N]) and attention of VSpM (`spatial`, [B, N, 4096]), if present."""
        _, projected = self.tokens(images)
        fusions = getattr(self.parts["fused"], "fusions", {}) if "fused" in self.parts else {}
        attention = {}
        if "semantic" in fusions:
            attention["semantic"] = fusions["semantic"].weights(projected, images)
        if "spatial" in fusions:
            attention["spatial"] = fusions["spatial"].attention(projected, images)
        return attention
