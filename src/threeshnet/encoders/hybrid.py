"""Several branches of the image side, and one embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from threeshnet.encoders.kernel import KernelPooling
from threeshnet.errors import ConfigError, one_of
from threeshnet.nn.masking import unit
from threeshnet.records import ImageBatch


class HybridEncoder(nn.Module):
    """The normalised sum of the branches' embeddings, in training and in evaluation alike.

    `weights` of branches by name, 1 for those that it does not name. Kernel branches take no part in training, where
    each would know the photo's own captions. Raises ConfigError for weights of a branch that is not there.
    """

    def __init__(self, *, branches: Mapping[str, nn.Module], weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(dict(branches))
        for name in weights or {}:
            if name not in branches:
                raise ConfigError(one_of("image_encoder.weights", name, branches))
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in branches}

    def forward(self, images: ImageBatch) -> Tensor:
        """Embeddings [B, D], unit length."""
        taken = [name for name, each in self.branches.items() if not (self.training and is_kernel(each))]
        embeddings = [self.branches[name](images) for name in taken]
        return joined(embeddings, [self.weights[name] for name in taken]) if len(taken) > 1 else embeddings[0]


def is_kernel(branch: object) -> bool:
    """Whether a branch is fitted instead of trained; such a branch has no guidance."""
    return isinstance(getattr(branch, "pooling", None), KernelPooling)


def joined(embeddings: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The embeddings [B, D] of images from those of the branches, and the branches' weights."""
    return unit(torch.stack([weight * each for each, weight in zip(embeddings, weights, strict=True)]).sum(dim=0))
