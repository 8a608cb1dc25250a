"""What kernel branches need of a training: its photos, what their captions become, and a fit when an epoch ends."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from threeshnet.batches.dataset import CaptionDataset
from threeshnet.encoders.hybrid import is_kernel
from threeshnet.encoders.image import ImageEncoder
from threeshnet.encoders.kernel import KernelPooling, mean_token

READ = 256  # photos at a time


class KernelBranches:
    """The kernel branches of a model; false where it has none, and then nothing here does anything."""

    def __init__(self, model: nn.Module) -> None:
        branches = [each for each in model.modules() if isinstance(each, ImageEncoder) and is_kernel(each)]
        self.branches = [(each, each.pooling) for each in branches if isinstance(each.pooling, KernelPooling)]
        self.rows: list[Tensor] = []  # of each branch, [images] the row of a training image; -1 where it is not kept

    def __bool__(self) -> bool:
        return bool(self.branches)

    @torch.no_grad()
    def keep_photos(self, dataset: CaptionDataset, device: torch.device) -> None:
        """Choose and read the photos to keep: all, or as many as a branch holds, the same in every process."""
        images = np.unique(dataset.owners[dataset.rows])
        self.rows = []
        for branch, pooling in self.branches:
            chance = np.random.default_rng([dataset.seed, len(images)])
            chosen = np.sort(chance.permutation(images)[: pooling.photos])
            pooling.keep(torch.cat([means(branch, dataset, some, device) for some in parts_of(chosen)]))
            rows = torch.full((int(dataset.owners.max()) + 1,), -1)
            rows[torch.from_numpy(chosen).long()] = torch.arange(len(chosen))
            self.rows.append(rows.to(device))

    @torch.no_grad()
    def observe(self, owners: Tensor, captions: Tensor) -> None:
        """Take in embeddings [B, D] of captions of the images `owners` [B].

        They are of the batch of all processes, so that each process fits the same.
        """
        for (_, pooling), rows in zip(self.branches, self.rows, strict=False):  # no rows outside of a training
            own = rows[owners]
            pooling.observe(own[own >= 0], captions.detach().float()[own >= 0])

    @torch.no_grad()
    def fit(self) -> None:
        """Solve for the coefficients of every branch."""
        for _, pooling in self.branches:
            pooling.fit()


def parts_of(numbers: np.ndarray) -> list[np.ndarray]:
    return np.split(numbers, range(READ, len(numbers), READ))


def means(branch: ImageEncoder, dataset: CaptionDataset, images: np.ndarray, device: torch.device) -> Tensor:
    """Mean tokens [n, width] of training images, as the branch pools them."""
    tokens, _ = branch.tokens(dataset.photos(images.tolist()).to(device))
    return mean_token(tokens)
