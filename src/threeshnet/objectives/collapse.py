"""Detection of collapse: the loss relative to that of a model whose embeddings are all equal.

Training on the hardest negatives alone can collapse (Schroff et al., "FaceNet", CVPR 2015, section 3.2). Equal
embeddings cost two margins a pair, and a negative that is nearer than the true pair costs more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def loss_over_collapsed(loss: Tensor, objective: nn.Module, images: Tensor, owners: Tensor, epoch: float) -> Tensor:
    """The `loss` of B pairs divided by their loss with equal embeddings; a scalar without gradient.

    `images` [B, D] give only shape, dtype and device; `owners` [B] are the image of each pair. The result is 0 when
    there are no negatives.

    >>> from threeshnet.objectives.triplet import TripletLoss
    >>> images, owners = torch.rand(64, 8), torch.arange(64)  # equal embeddings cost 2 * margin * B = 25.6
    >>> round(loss_over_collapsed(torch.tensor(12.8), TripletLoss(margin=0.2), images, owners, epoch=1).item(), 4)
    0.5
    """
    equal = torch.zeros_like(images)
    equal[:, 0] = 1
    with torch.no_grad():
        collapsed = objective(equal, equal, owners, epoch)["loss"]
    return loss.detach() / collapsed.clamp(min=torch.finfo(collapsed.dtype).tiny)
