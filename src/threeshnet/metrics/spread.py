"""How far apart the embeddings of one modality lie.

1 - R^2, with R the mean resultant length of directional statistics (Mardia and Jupp, Directional Statistics, 2000): the
mean of 1 - cosine over all pairs of rows, a row with itself included.
"""

from __future__ import annotations

import torch
from torch import Tensor


def spread(embeddings: Tensor) -> float:
    """0 where all rows of [G, D], brought to unit length, point one way; 1 where they cancel.

    >>> spread(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    0.5
    """
    rows = torch.nn.functional.normalize(embeddings.double(), dim=1)
    return 1 - float(rows.mean(dim=0).square().sum())
