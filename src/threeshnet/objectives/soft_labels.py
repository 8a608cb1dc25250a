"""Soft labels: other photos whose captions mean nearly the same are no full negatives.

The labels of a batch are shares of similarity, not one right answer. The idea is that of CUSA (Huang et al.,
"Cross-modal and uni-modal soft-label alignment", AAAI 2024). Here a sentence encoder that is not trained compares the
photos by what all their captions say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from threeshnet.errors import ConfigError, Problems
from threeshnet.objectives.triplet import TripletLoss

Meanings = Callable[..., Tensor]  # captions, the image of each, device -> [images, width], unit length


class SoftLabels(TripletLoss):
    """The triplet hinge, plus `weight` times the divergence from soft labels, summed over pairs and directions.

    With the meanings m of the photos (`teacher`), the label of pair i for pair j is
    softmax_j(m_i m_j / label_temperature), and the model's share softmax_j(image_i caption_j / temperature); the same
    of captions as queries. The divergence is Kullback and Leibler's, 0 where the shares are the labels. `prepare`
    computes the meanings once, at the start of a training. Other keywords are those of `TripletLoss`, but all pairs are
    compared at once: `rows` must be None. Raises ConfigError for it and for numbers out of range.
    """

    def __init__(
        self,
        *,
        teacher: Meanings,
        weight: float = 0.1,
        temperature: float = 0.1,
        label_temperature: float = 0.1,
        margin: float = 0.2,
        warm_up_epochs: float = 1,
        mask_same_image: bool = False,
        rows: int | None = None,
    ) -> None:
        super().__init__(margin=margin, warm_up_epochs=warm_up_epochs, mask_same_image=mask_same_image)
        problems = Problems("objective=soft_labels")
        if rows is not None:
            problems.add(f"objective.rows={rows}: soft labels compare all pairs of a batch at once; set it to null")
        if not weight >= 0:
            problems.add(f"objective.weight={weight} must not be negative")
        for name, value in (("temperature", temperature), ("label_temperature", label_temperature)):
            if not value > 0:
                problems.add(f"objective.{name}={value} must be greater than 0")
        problems.raise_as(ConfigError)
        self.teacher, self.weight = teacher, weight
        self.temperature, self.label_temperature = temperature, label_temperature
        self.meanings: Tensor
        self.register_buffer("meanings", torch.empty(0, 0), persistent=False)  # [images, width]

    def prepare(self, texts: Sequence[str], owners: np.ndarray) -> None:
        """The training captions and the image of each, [captions]."""
        device = self.meanings.device
        self.meanings = self.teacher(texts, owners, device).to(device)

    def forward(self, images: Tensor, captions: Tensor, owners: Tensor, epoch: float) -> dict[str, Tensor]:
        """Embeddings [B, D] of pairs and the image of each caption [B] -> `loss` and `soft`, the mean divergence.

        Raises RuntimeError before `prepare`.
        """
        if not len(self.meanings):
            raise RuntimeError("soft labels need the training captions first: prepare(texts, owners)")
        hinge = super().forward(images, captions, owners, epoch)["loss"]
        meant = self.meanings[owners].to(images.dtype)
        labels = (meant @ meant.T / self.label_temperature).log_softmax(dim=1)
        similarity = images @ captions.T / self.temperature
        shares = torch.stack([similarity.log_softmax(dim=1), similarity.T.log_softmax(dim=1)])
        soft = kl_div(shares, labels.expand_as(shares), reduction="sum", log_target=True)
        return {"loss": hinge + self.weight * soft, "soft": soft.detach() / (2 * len(owners))}
