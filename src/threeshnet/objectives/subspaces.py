"""The triplet hinge in parts of the embedding: the parts learn like the models of an ensemble, and cost one model.

Splitting an embedding into groups with a loss of their own is the idea of BIER (Opitz et al., "BIER: Boosting
Independent Embeddings Robustly", ICCV 2017), which also reweights the samples from group to group. Here the groups have
the same samples, and differ by their first weights alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from threeshnet.errors import ConfigError
from threeshnet.nn.masking import unit
from threeshnet.objectives.triplet import TripletLoss


class SubspaceTriplets(TripletLoss):
    """The sum of the triplet hinges of `subspaces` equal parts of the embeddings, each part of unit length.

    Search compares the whole embeddings as ever, which is the mean over the parts' cosines, weighted by their lengths.
    Other keywords are those of `TripletLoss`. Raises ConfigError where `subspaces` is no divisor of `dim`.
    """

    def __init__(
        self,
        *,
        dim: int,
        subspaces: int = 4,
        margin: float = 0.2,
        warm_up_epochs: float = 1,
        mask_same_image: bool = False,
        rows: int | None = None,
    ) -> None:
        super().__init__(margin=margin, warm_up_epochs=warm_up_epochs, mask_same_image=mask_same_image, rows=rows)
        if subspaces < 1 or dim % subspaces:
            raise ConfigError(f"objective.subspaces={subspaces} does not divide dim={dim} into equal parts")
        self.subspaces = subspaces

    def forward(self, images: Tensor, captions: Tensor, owners: Tensor, epoch: float) -> dict[str, Tensor]:
        """Embeddings [B, dim] of pairs, the image of each caption [B], and the epoch from 0 -> `loss`."""
        parts = zip(images.chunk(self.subspaces, dim=1), captions.chunk(self.subspaces, dim=1), strict=True)
        hinges = [super(SubspaceTriplets, self).forward(unit(i), unit(c), owners, epoch)["loss"] for i, c in parts]
        return {"loss": torch.stack(hinges).sum()}
