"""Operations on padded sets of vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from threeshnet.records import TokenSet


def zero_padding(values: Tensor, mask: Tensor) -> Tensor:
    """`values` [B, N, D] with 0 wherever `mask` [B, N] is False."""
    return values.masked_fill(~mask.unsqueeze(-1), 0.0)


def unit(vectors: Tensor) -> Tensor:
    """Vectors [..., D] of unit length, at least in float32: half precision cannot represent a length of 1 exactly."""
    return F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)


def concatenate(sets: list[TokenSet]) -> TokenSet:
    """The union of sets [B, N, D] of the same images: [B, sum of N, D]."""
    return TokenSet(torch.cat([part.values for part in sets], dim=1), torch.cat([part.mask for part in sets], dim=1))


def all_real(values: Tensor) -> TokenSet:
    """A set [B, N, D] without padding."""
    return TokenSet(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))
