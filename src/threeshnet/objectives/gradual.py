"""From all negatives to the hardest one by degrees, where the paper changes from one to the other between two steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from threeshnet.errors import ConfigError, Problems


class GradualTripletLoss(nn.Module):
    """Bidirectional triplet hinge, summed over the k hardest negatives of each query; k falls from all to 1.

    It takes the same arguments as `TripletLoss`. All count in the first `warm_up_epochs` epochs (a fraction will do);
    then k falls by the same factor in every step for `ramp_epochs`, and stays 1: `TripletLoss` before and after.
    """

    def __init__(
        self,
        *,
        margin: float = 0.2,
        warm_up_epochs: float = 1.0,
        ramp_epochs: float = 1.0,
        mask_same_image: bool = False,
    ) -> None:
        super().__init__()
        check_epochs(warm_up_epochs=warm_up_epochs, ramp_epochs=ramp_epochs)
        self.margin = margin
        self.warm_up_epochs, self.ramp_epochs = warm_up_epochs, ramp_epochs
        self.mask_same_image = mask_same_image

    def forward(self, images: Tensor, captions: Tensor, owners: Tensor, epoch: float) -> dict[str, Tensor]:
        """Embeddings [B, D] of pairs, the image each caption belongs to [B], and the epochs done -> named numbers."""
        similarity = images @ captions.T
        true = similarity.diagonal()
        rows = torch.arange(len(owners), device=owners.device)
        match = owners.unsqueeze(1) == owners if self.mask_same_image else rows.unsqueeze(1) == rows
        hinges = [
            (self.margin + similarity - true.unsqueeze(1)).clamp(min=0).masked_fill(match, 0.0),
            (self.margin + similarity - true.unsqueeze(0)).clamp(min=0).masked_fill(match, 0.0).T,
        ]
        k = self.negatives(len(images), epoch)
        loss = torch.stack([one.topk(k, dim=1).values.sum() for one in hinges]).sum()
        return {"loss": loss, "negatives": loss.new_tensor(float(k))}

    def negatives(self, pairs: int, epoch: float) -> int:
        """How many of a query's negatives count in a batch of `pairs`.

        >>> [GradualTripletLoss().negatives(100, epoch) for epoch in (0, 1, 1.5, 2)]
        [100, 100, 10, 1]
        """
        return max(round(pairs ** (1 - ramp(epoch, self.warm_up_epochs, self.ramp_epochs))), 1)


def ramp(epoch: float, start: float, length: float) -> float:
    """0 before `start`, 1 from `start + length` on, in a straight line between; all in epochs.

    >>> [ramp(epoch, 1, 2) for epoch in (0, 1, 2, 3, 4)]
    [0.0, 0.0, 0.5, 1.0, 1.0]
    >>> ramp(1, 1, 0)
    1.0
    """
    if epoch < start:
        return 0.0
    return min((epoch - start) / length, 1.0) if length else 1.0


def check_epochs(**values: float) -> None:
    """Raises ConfigError for numbers of epochs below 0."""
    problems = Problems("objective")
    problems.extend(f"{name}={value}: a number of epochs, 0 or more" for name, value in values.items() if value < 0)
    problems.raise_as(ConfigError)
