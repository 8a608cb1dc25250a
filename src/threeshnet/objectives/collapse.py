"""How far a loss is from that of a model which has drawn everything into one point.

The hardest negatives alone can do that (Schroff et al., "FaceNet", CVPR 2015, section 3.2): equal embeddings cost two
margins a pair and no more, while a negative that is nearer than the true pair costs extra.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def loss_over_collapsed(loss: Tensor, objective: nn.Module, images: Tensor, owners: Tensor, epoch: float) -> Tensor:
    """The `loss` of these pairs as a share of what it would be if all their embeddings were equal; without gradient.

    `images` [B, D] give number, width, dtype and device, `owners` [B] the image of each pair. 0 where nothing is a
    negative of anything.

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
