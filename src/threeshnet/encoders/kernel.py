"""A branch without trained weights: kernel ridge regression from photos to what training captions say.

A photo's embedding is a weighted sum over training photos, with larger weights for photos that are like it. Comparing
with stored training features by exp(sharpness (cosine - 1)) is how Tip-Adapter does it (Zhang et al., ECCV 2022); the
sum's coefficients solve a ridge regression. It has no step to overfit by, so beside a trained branch it is an ensemble
whose members err differently, for the price of one small matrix product a photo.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from threeshnet.errors import ConfigError
from threeshnet.nn.masking import unit
from threeshnet.pooling.mean import MeanPooling
from threeshnet.records import TokenSet

MEMORY = 0.8  # share of a photo's target that stays when one of its captions is seen; five captions make an epoch
LEAST_DEVIATION = 1e-6  # of a channel: one photo, or photos that are all alike, have none
LEAST_SCALE = 0.02  # of the mean deviation: what hardly varies is not blown up


class Roots(nn.Module):
    """Features [B, N, width] -> their roots, with their sign, as local and projected tokens.

    Networks leave a few large numbers beside many small ones; roots bring them nearer to each other.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, features: TokenSet) -> tuple[TokenSet, TokenSet]:
        values = features.values
        roots = TokenSet(values.sign() * values.abs().sqrt(), features.mask)
        return roots, roots


class KernelPooling(nn.Module):
    """Token sets [B, N, width] -> vectors [B, D], which are 0 until `fit`; their length grows with how sure they are.

    `photos` training photos are kept, `width` numbers each: the mean token, each channel centred and scaled over the
    kept photos, at unit length. `sharpness` and `ridge` are those of the kernel and of the regression. Raises
    ConfigError for values that are not above 0.
    """

    center: Tensor  # [width]
    scale: Tensor  # [width]
    kept: Tensor  # [photos, width], 0 where there are fewer training photos
    targets: Tensor  # [photos, D] a direction: the captions of each, later ones weighing more
    coefficients: Tensor  # [photos, D]

    def __init__(self, *, width: int, dim: int, photos: int, sharpness: float = 2.0, ridge: float = 0.1) -> None:
        super().__init__()
        for name, value in {"photos": photos, "sharpness": sharpness, "ridge": ridge}.items():
            if value <= 0:
                raise ConfigError(f"{name}={value} of the kernel branch must be above 0")
        self.photos, self.sharpness, self.ridge = photos, sharpness, ridge
        self.mean = MeanPooling()
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("kept", torch.zeros(photos, width))
        self.register_buffer("targets", torch.zeros(photos, dim))
        self.register_buffer("coefficients", torch.zeros(photos, dim))

    def forward(self, tokens: TokenSet) -> Tensor:
        with torch.autocast(tokens.values.device.type, enabled=False):  # a sum of thousands of terms
            return self.kernel(self.placed(self.mean(tokens))) @ self.coefficients

    def placed(self, means: Tensor) -> Tensor:
        """Mean tokens [B, width] as the kernel compares them."""
        return unit((means - self.center) / self.scale)

    def kernel(self, placed: Tensor) -> Tensor:
        """Likeness [B, photos] to each kept photo, at most 1."""
        return torch.exp(self.sharpness * (placed @ self.kept.T - 1))

    def keep(self, means: Tensor) -> None:
        """Keep training photos by their mean tokens [n, width], n at most `photos`."""
        deviation = means.std(dim=0, correction=0).clamp(min=LEAST_DEVIATION)
        self.center.copy_(means.mean(dim=0))
        self.scale.copy_(deviation + LEAST_SCALE * deviation.mean())
        self.kept.zero_()
        self.kept[: len(means)] = self.placed(means)

    def observe(self, rows: Tensor, captions: Tensor) -> None:
        """Embeddings [b, D] of captions of the kept photos `rows` [b], as a training step made them."""
        photos, pair, counts = rows.unique(return_inverse=True, return_counts=True)
        sums = captions.new_zeros(len(photos), captions.shape[1]).index_add_(0, pair, captions)
        counts = counts.unsqueeze(1)
        stay = MEMORY**counts
        self.targets[photos] = stay * self.targets[photos] + (1 - stay) * sums / counts

    def fit(self) -> None:
        """Solve for the coefficients; photos whose captions were not seen yet do not count."""
        self.coefficients.zero_()
        seen = self.targets.abs().amax(dim=1) > 0
        if not seen.any():
            return
        kept, wanted = self.kept[seen].double().cpu(), unit(self.targets[seen].double().cpu())
        likeness = torch.exp(self.sharpness * (kept @ kept.T - 1))
        likeness.diagonal().add_(self.ridge)
        solved = torch.cholesky_solve(wanted - wanted.mean(dim=0), torch.linalg.cholesky(likeness))
        self.coefficients[seen] = solved.to(self.coefficients)
