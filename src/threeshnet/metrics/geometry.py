"""Geometry of embeddings: the gap between the two modalities, and the spread of each.

The modality gap is the difference of the two means of unit vectors (Liang et al., "Mind the Gap: Understanding the
Modality Gap in Multi-modal Contrastive Representation Learning", NeurIPS 2022). The spread is 1 - R^2 with the mean
resultant length R (Mardia and Jupp, Directional Statistics, 2000): the mean of 1 - cosine over all pairs of rows, each
row with itself included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from threeshnet.errors import DataError


def modality_gap(images: Tensor, captions: Tensor) -> dict[str, float]:
    """`distance` of the two means (0 to 2) and `angle` in degrees between their directions.

    Rows of [G, D] and [Q, D] are normalised to unit length. Raises DataError when a mean has no direction.

    >>> modality_gap(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    {'distance': 1.414..., 'angle': 90.0}
    """
    means = [torch.nn.functional.normalize(side.double(), dim=1).mean(dim=0) for side in (images, captions)]
    if not all(float(mean.norm()) > 0 for mean in means):
        raise DataError("the mean of the embeddings is zero (or not a number): it has no direction")
    directions = [mean / mean.norm() for mean in means]
    # atan2 of the two diagonals: acos of the inner product loses half the digits for directions that are close.
    angle = 2 * torch.atan2((directions[0] - directions[1]).norm(), (directions[0] + directions[1]).norm())
    return {"distance": float((means[0] - means[1]).norm()), "angle": float(torch.rad2deg(angle))}


def spread(embeddings: Tensor) -> float:
    """0 when all rows of [G, D], normalised to unit length, have one direction; 1 when they cancel.

    >>> spread(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    0.5
    """
    rows = torch.nn.functional.normalize(embeddings.double(), dim=1)
    return 1 - float(rows.mean(dim=0).square().sum())
