"""What kernel branches need of a training: its photos, what their captions become, and a fit when an epoch ends."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from threeshnet.batches.dataset import CaptionDataset
from threeshnet.encoders.image import ImageEncoder
from threeshnet.encoders.kernel import KernelPooling

READ = 256  # photos at a time


class KernelBranches:
    """The kernel branches of a model; false where it has none, and then nothing here does anything."""

    def __init__(self, model: nn.Module) -> None:
        encoders = [each for each in model.modules() if isinstance(each, ImageEncoder)]
        self.branches = [(each, each.pooling) for each in encoders if isinstance(each.pooling, KernelPooling)]
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
            groups = np.split(chosen, range(READ, len(chosen), READ))
            read = (branch.tokens(dataset.photos(group.tolist()).to(device))[0] for group in groups)
            pooling.keep(torch.cat([pooling.mean(tokens) for tokens in read]))
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
