"""InfoNCE over the batch in both directions (van den Oord et al., 2018; CLIP's symmetric form)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class InfoNCELoss(nn.Module):
    """Cross-entropy of the true pair among the batch, averaged over pairs and directions, with a learned temperature.

    It takes the same arguments as `TripletLoss`; `epoch` changes nothing. With `mask_same_image` other captions of the
    same image (and the reverse) are left out of the denominator.
    """

    def __init__(self, *, temperature: float = 0.07, mask_same_image: bool = False) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.mask_same_image = mask_same_image

    def forward(self, images: Tensor, captions: Tensor, owners: Tensor, epoch: float) -> dict[str, Tensor]:
        """Embeddings [B, D] of pairs and the image each caption belongs to [B] -> named numbers."""
        logits = images @ captions.T * self.log_scale.clamp(max=math.log(100.0)).exp()
        if self.mask_same_image:
            same = owners.unsqueeze(1) == owners
            logits = logits.masked_fill(same.fill_diagonal_(False), float("-inf"))
        target = torch.arange(len(logits), device=logits.device)
        loss = (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2
        return {"loss": loss, "temperature": (-self.log_scale).exp().detach()}
