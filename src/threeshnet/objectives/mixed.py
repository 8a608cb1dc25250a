"""InfoNCE first, and the hardest triplet beside it later."""

from __future__ import annotations

from torch import Tensor, nn

from threeshnet.errors import ConfigError
from threeshnet.objectives.gradual import check_epochs, ramp
from threeshnet.objectives.infonce import InfoNCELoss
from threeshnet.objectives.triplet import TripletLoss


class MixedLoss(nn.Module):
    """share * B * InfoNCE + (1 - share) * the hinge on the hardest negatives; both are sums over the batch of B pairs.

    It takes the same arguments as `TripletLoss`. The share is 1 in the first `warm_up_epochs` epochs (a fraction will
    do), falls in a straight line to `infonce_share` within `ramp_epochs`, and stays there. All negatives have a
    gradient at every time, so the hardest ones cannot draw everything into one point.
    """

    def __init__(
        self,
        *,
        margin: float = 0.2,
        temperature: float = 0.07,
        warm_up_epochs: float = 1.0,
        ramp_epochs: float = 1.0,
        infonce_share: float = 0.5,
        mask_same_image: bool = False,
    ) -> None:
        super().__init__()
        check_epochs(warm_up_epochs=warm_up_epochs, ramp_epochs=ramp_epochs)
        if not 0 <= infonce_share <= 1:
            raise ConfigError(f"objective.infonce_share={infonce_share} is not a share between 0 and 1")
        self.triplet = TripletLoss(margin=margin, warm_up_epochs=0, mask_same_image=mask_same_image)
        self.infonce = InfoNCELoss(temperature=temperature, mask_same_image=mask_same_image)
        self.warm_up_epochs, self.ramp_epochs = warm_up_epochs, ramp_epochs
        self.infonce_share = infonce_share

    def forward(self, images: Tensor, captions: Tensor, owners: Tensor, epoch: float) -> dict[str, Tensor]:
        """Embeddings [B, D] of pairs, the image each caption belongs to [B], and the epochs done -> named numbers."""
        share = self.share(epoch)
        softly = self.infonce(images, captions, owners, 0)
        numbers = {"temperature": softly["temperature"], "share": images.new_tensor(share)}
        loss = share * len(images) * softly["loss"]
        if share < 1:
            loss = loss + (1 - share) * self.triplet(images, captions, owners, 0)["loss"]
        return {"loss": loss, **numbers}

    def share(self, epoch: float) -> float:
        """Of InfoNCE.

        >>> [MixedLoss().share(epoch) for epoch in (0, 1, 1.5, 2, 3)]
        [1.0, 1.0, 0.75, 0.5, 0.5]
        """
        return 1 - (1 - self.infonce_share) * ramp(epoch, self.warm_up_epochs, self.ramp_epochs)
