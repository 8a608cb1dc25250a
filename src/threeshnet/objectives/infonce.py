"""InfoNCE in both directions (van den Oord et al., arXiv 1807.03748; the symmetric form of CLIP, arXiv 2103.00020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from threeshnet.objectives.blocks import check_rows, cross_entropy_in_blocks


class InfoNCELoss(nn.Module):
    """Cross-entropy of the true pair among the batch, averaged over pairs and directions, with a learned temperature.

    With `mask_same_image`, other pairs of the same image are left out of the denominator. At most `rows` images are
    compared with all captions at a time: the same loss in less memory. None compares all at once.
    """

    def __init__(self, *, temperature: float = 0.07, mask_same_image: bool = False, rows: int | None = None) -> None:
        super().__init__()
        self.rows = check_rows(rows)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.mask_same_image = mask_same_image

    def forward(self, images: Tensor, captions: Tensor, owners: Tensor, epoch: float) -> dict[str, Tensor]:
        """Embeddings [B, D] of pairs and the image of each caption [B] -> `loss` and `temperature`; ignores `epoch`."""
        scale = self.log_scale.clamp(max=math.log(100.0)).exp()
        pairs = torch.arange(len(owners), device=owners.device)
        names = owners if self.mask_same_image else pairs
        if self.rows is not None:
            loss = cross_entropy_in_blocks(images, captions, names, self.rows, scale)
        else:
            others = (names.unsqueeze(1) == names).fill_diagonal_(False)
            logits = (images @ captions.T * scale).masked_fill(others, float("-inf"))
            loss = (nn.functional.cross_entropy(logits, pairs) + nn.functional.cross_entropy(logits.T, pairs)) / 2
        return {"loss": loss, "temperature": (-self.log_scale).exp().detach()}
