"""The gap between the two modalities' embeddings.

After Liang et al., "Mind the Gap: Understanding the Modality Gap in Multi-modal Contrastive Representation Learning",
NeurIPS 2022: the difference of the two means of unit vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from threeshnet.errors import DataError


def modality_gap(images: Tensor, captions: Tensor) -> dict[str, float]:
    """`distance` of the two means (0 to 2), and on the sphere the `angle` in degrees between their directions.

    Rows of [G, D] and [Q, D] are brought to unit length. Raises DataError where a mean has no direction.

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
