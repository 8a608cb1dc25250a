"""Several branches of the image side, and one embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from threeshnet.encoders.kernel import KernelPooling
from threeshnet.nn.masking import unit
from threeshnet.records import ImageBatch


class HybridEncoder(nn.Module):
    """The normalised sum of the branches' embeddings, in training and in evaluation alike.

    Kernel branches take no part in training, where each would know the photo's own captions.
    """

    def __init__(self, *, branches: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(dict(branches))

    def forward(self, images: ImageBatch) -> Tensor:
        """Embeddings [B, D], unit length."""
        taken = [each for each in self.branches.values() if not (self.training and is_kernel(each))]
        embeddings = [branch(images) for branch in taken]
        return joined(embeddings) if len(embeddings) > 1 else embeddings[0]


def is_kernel(branch: nn.Module) -> bool:
    """Whether a branch is fitted instead of trained."""
    return isinstance(getattr(branch, "pooling", None), KernelPooling)


def joined(embeddings: Sequence[Tensor]) -> Tensor:
    """The embeddings [B, D] of images from those of the branches."""
    return unit(torch.stack(list(embeddings)).sum(dim=0))
