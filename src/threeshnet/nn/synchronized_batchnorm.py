"""BatchNorm over a batch that is divided: among processes, or into chunks that are encoded one after another.

`torch.nn.SyncBatchNorm` handles processes only, and GPUs only. Here a layer summarises its own rows, and the summaries
of all parts are merged, with gradient, into the statistics of the whole batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from threeshnet.nn.collectives import stack_everywhere

Exchange = Callable[["SharedStatistics", Tensor], Tensor]


class SharedStatistics(ABC):
    """A layer that normalises by statistics of the whole batch.

    By default it merges the summaries of all processes and updates its running statistics. With an `exchange`, that
    function merges summaries, and its owner calls `absorb` once a step.
    """

    exchange: Exchange | None = None
    latest: tuple[Tensor, Tensor, Tensor] | None = None  # mean, biased variance and count of this step
    has_gradient = True  # False if the layer's input needs no gradient

    @abstractmethod
    def merge(self, summaries: Tensor) -> Tensor:
        """Summaries [parts, K] of the parts of a batch -> the summary of the whole [K]."""

    @abstractmethod
    def absorb(self) -> None:
        """Updates the running statistics from `latest`."""

    def whole(self, summary: Tensor) -> Tensor:
        """The summary of the whole batch from the summary of this part, both [K]."""
        if self.exchange is not None:
            return self.exchange(self, summary)
        return self.everywhere(summary)

    def everywhere(self, summary: Tensor) -> Tensor:
        """The summary of all processes from the summary of this process, both [K]."""
        return self.merge(stack_everywhere(summary))

    def settle(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Keeps the statistics of this step, and absorbs them unless the `exchange` does."""
        self.latest = (mean.detach(), variance.detach(), count.detach())
        if self.exchange is None:
            self.absorb()


class SynchronizedBatchNorm(SharedStatistics, nn.BatchNorm1d):
    """BatchNorm of rows [R, C] by the mean and variance of all rows of all processes.

    In one process it has the weights, buffers and results of `nn.BatchNorm1d`. A summary is the count, the mean and the
    sum of squared deviations, which merge without cancellation (Chan, Golub and LeVeque, 1983, equation 1.5).
    """

    @classmethod
    def of(cls, plain: nn.BatchNorm1d) -> SynchronizedBatchNorm:
        """A layer that shares the weights and buffers of `plain`."""
        layer = cls(
            plain.num_features, plain.eps, plain.momentum, plain.affine, plain.track_running_stats, device="meta"
        )
        layer.weight, layer.bias = plain.weight, plain.bias
        for name, buffer in plain.named_buffers(recurse=False):
            setattr(layer, name, buffer)
        return layer.train(plain.training)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        rows = input.to(torch.promote_types(input.dtype, torch.float32))
        variance, mean = torch.var_mean(rows, dim=0, correction=0)
        count = mean.new_full((1,), len(rows))
        count, mean, spread = self._parts(self.whole(torch.cat([count, mean, variance * count]).double()))
        variance = spread / count
        self.settle(mean, variance, count)
        factor = torch.rsqrt(variance + self.eps).to(rows.dtype)
        scaled = (rows - mean.to(rows.dtype)) * (factor if self.weight is None else factor * self.weight)
        return (scaled if self.bias is None else scaled + self.bias).to(input.dtype)

    def merge(self, summaries: Tensor) -> Tensor:
        counts, means, spreads = self._parts(summaries)
        count = counts.sum(dim=0)
        mean = (counts * means).sum(dim=0) / count
        spread = spreads.sum(dim=0) + (counts * (means - mean).square()).sum(dim=0)
        return torch.cat([count, mean, spread])

    def absorb(self) -> None:
        assert self.latest is not None
        absorb(self, *self.latest)

    def _parts(self, summary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count, mean, spread = summary.split([1, self.num_features, self.num_features], dim=-1)
        return count, mean, spread


@torch.no_grad()
def absorb(norm: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Updates running statistics as torch does: with the unbiased variance, and a plain average without momentum."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    share = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
    unbiased = variance * count / (count - 1).clamp(min=1)
    norm.running_mean.add_(share * (mean.to(norm.running_mean) - norm.running_mean))
    norm.running_var.add_(share * (unbiased.to(norm.running_var) - norm.running_var))
