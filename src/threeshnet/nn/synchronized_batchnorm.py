"""BatchNorm over a batch that does not lie in one place: dealt out to processes, or encoded a few rows at a time.

`torch.nn.SyncBatchNorm` does the first alone, and on GPUs alone. Here a layer makes a summary of the rows at hand, and
summaries of several places are merged, with gradient, into that of the whole batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from threeshnet.nn.collectives import stack_everywhere

Exchange = Callable[["SharedStatistics", Tensor], Tensor]


class SharedStatistics(ABC):
    """A layer that normalises by statistics of the whole batch, and knows them only when it has asked.

    Without an `exchange` it asks all processes, at once, and moves its running statistics. With one it asks that, and
    whoever set it calls `absorb` once a step.
    """

    exchange: Exchange | None = None
    latest: tuple[Tensor, Tensor, Tensor] | None = None  # mean, biased variance and count of the step
    has_gradient = True  # whether what it sees was made by something that learns

    @abstractmethod
    def merge(self, summaries: Tensor) -> Tensor:
        """Summaries [places, K] of parts of a batch -> that of the whole [K]."""

    @abstractmethod
    def absorb(self) -> None:
        """Moves the running statistics towards `latest`."""

    def whole(self, summary: Tensor) -> Tensor:
        """The summary of the whole batch from that of the rows at hand, both [K]."""
        if self.exchange is not None:
            return self.exchange(self, summary)
        return self.everywhere(summary)

    def everywhere(self, summary: Tensor) -> Tensor:
        """The summary of all processes from that of this one, both [K]."""
        return self.merge(stack_everywhere(summary))

    def settle(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Keeps the statistics of the step, and absorbs them unless somebody else will."""
        self.latest = (mean.detach(), variance.detach(), count.detach())
        if self.exchange is None:
            self.absorb()


class SynchronizedBatchNorm(SharedStatistics, nn.BatchNorm1d):
    """BatchNorm of rows [R, C] by the mean and variance of all rows of all processes.

    The same weights, buffers and numbers as `nn.BatchNorm1d` in one process. A summary is the count, the mean and the
    sum of squared distances from it; they merge without cancellation (Chan, Golub and LeVeque, 1983, equation 1.5).
    """

    @classmethod
    def of(cls, plain: nn.BatchNorm1d) -> SynchronizedBatchNorm:
        """A layer with the weights and buffers of `plain`: the same tensors, not copies."""
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
    """Moves running statistics as torch does: the variance is the unbiased one, and no momentum means the average."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    share = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
    unbiased = variance * count / (count - 1).clamp(min=1)
    norm.running_mean.add_(share * (mean.to(norm.running_mean) - norm.running_mean))
    norm.running_var.add_(share * (unbiased.to(norm.running_var) - norm.running_var))
