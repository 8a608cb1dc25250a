"""Triplet hinge with all negatives or the hardest (Faghri et al., VSE++, arXiv 1707.05612, equations 5 and 6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from threeshnet.objectives.blocks import check_rows, triplet_hinge_in_blocks


class TripletLoss(nn.Module):
    """Bidirectional triplet hinge, summed over the batch.

    `margin` is in units of cosine similarity. All negatives count in the first `warm_up_epochs` epochs, and only the
    hardest of each query after. With `mask_same_image`, pairs of one image are not negatives of each other. At most
    `rows` images are compared with all captions at a time: the same loss in less memory. None compares all at once.
    """

    def __init__(
        self,
        *,
        margin: float = 0.2,
        warm_up_epochs: float = 1,
        mask_same_image: bool = False,
        rows: int | None = None,
    ) -> None:
        super().__init__()
        self.rows = check_rows(rows)
        self.margin = margin
        self.warm_up_epochs = warm_up_epochs
        self.mask_same_image = mask_same_image

    def forward(self, images: Tensor, captions: Tensor, owners: Tensor, epoch: float) -> dict[str, Tensor]:
        """Embeddings [B, D] of pairs, the image of each caption [B], and the epoch from 0 -> `loss`.

        Row i of both sides is a true pair.
        """
        hardest = epoch >= self.warm_up_epochs
        names = owners if self.mask_same_image else torch.arange(len(owners), device=owners.device)
        if self.rows is not None:
            return {"loss": triplet_hinge_in_blocks(images, captions, names, self.rows, self.margin, hardest)}
        match = names.unsqueeze(1) == names
        return {"loss": triplet_hinge(images @ captions.T, match, margin=self.margin, hardest=hardest)}


def triplet_hinge(similarity: Tensor, match: Tensor, *, margin: float, hardest: bool) -> Tensor:
    """Sum of the hinges of both directions over `similarity` [B, B]; pairs in `match` [B, B] are not negatives.

    >>> similarity = torch.tensor([[0.9, 0.8], [0.1, 0.9]])
    >>> round(triplet_hinge(similarity, torch.eye(2).bool(), margin=0.2, hardest=True).item(), 4)
    0.2
    """
    true = similarity.diagonal()
    as_image_query = (margin + similarity - true.unsqueeze(1)).clamp(min=0).masked_fill(match, 0.0)
    as_caption_query = (margin + similarity - true.unsqueeze(0)).clamp(min=0).masked_fill(match, 0.0)
    if hardest:
        return as_image_query.amax(dim=1).sum() + as_caption_query.amax(dim=0).sum()
    return as_image_query.sum() + as_caption_query.sum()
