"""Synchronized BatchNorm: statistics of the batch of all processes, padding included.

BatchNorm counts padding, as the authors' does. A single process pads to the longest set of the batch, several
processes to the longest set of each share. So shares are widened to the longest set of all processes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from threeshnet.fusion.spatial import PlaceEncoder
from threeshnet.nn.collectives import sum_everywhere
from threeshnet.nn.synchronized_batchnorm import SharedStatistics, SynchronizedBatchNorm, absorb
from threeshnet.records import Batch, TokenSet

Module = TypeVar("Module", bound=nn.Module)


class SynchronizedPlaces(SharedStatistics, PlaceEncoder):
    """VSpM's places by the statistics of all photos of all processes.

    Those of the 128 channels follow from moments of the 9 neighbours, which are data: so the moments are added up, in
    float64 (sums of whole numbers: exact), and need no gradient.
    """

    has_gradient = False

    @staticmethod
    def of(plain: PlaceEncoder) -> SynchronizedPlaces:
        """Places with the weights, buffers and settings of `plain`: the same tensors, not copies."""
        layer = SynchronizedPlaces.__new__(SynchronizedPlaces)
        vars(layer).update(vars(plain))
        return layer

    def _statistics(self, neighbours: Tensor, slope: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return super()._statistics(neighbours, slope, shift)
        photos, places, width = neighbours.shape
        exact = neighbours.double()
        flat = exact.reshape(-1, width)
        summary = torch.cat([exact.new_full((1,), photos), exact.sum(dim=0).flatten(), (flat.T @ flat).flatten()])
        count, sums, products = self.whole(summary).split([1, places * width, width * width])
        place_mean = sums.view(places, width) / count
        mean, variance = _of_moments(place_mean, products.view(width, width) / (count * places), slope, shift)
        self.settle(mean, variance, count * places)
        return mean.to(slope), variance.to(slope)

    def merge(self, summaries: Tensor) -> Tensor:
        return summaries.sum(dim=0)

    def everywhere(self, summary: Tensor) -> Tensor:
        """Added up on the way: 300 kB however many processes there are, where stacked summaries grow with them."""
        return sum_everywhere(summary)

    def absorb(self) -> None:
        assert self.latest is not None
        absorb(self.norm, *self.latest)


def _of_moments(place_mean: Tensor, square: Tensor, slope: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [128] of x @ slope + shift; `place_mean` [P, 9] of x, `square` [9, 9] mean of x x^T."""
    centre = place_mean.mean(dim=0)
    wide, offset = slope.double(), shift.double()
    mean_offset = offset.mean(dim=0)
    offset = offset - mean_offset
    shared = (place_mean - centre).T @ offset / len(offset)  # [9, 128]
    spread = square - centre.outer(centre)
    variance = ((spread @ wide) * wide).sum(0) + 2 * (wide * shared).sum(0) + offset.square().mean(0)
    return centre @ wide + mean_offset, variance


def synchronize(model: Module) -> Module:
    """Replace every BatchNorm in `model` by one with shared statistics; weights and their names stay."""
    for name, child in model.named_children():
        if isinstance(child, SharedStatistics):
            continue
        if isinstance(child, PlaceEncoder):
            setattr(model, name, SynchronizedPlaces.of(child))
        elif isinstance(child, nn.BatchNorm1d):
            setattr(model, name, SynchronizedBatchNorm.of(child))
        else:
            synchronize(child)
    return model


def widths(batch: Batch) -> list[int]:
    """Padded lengths of the regions, the grid and the captions of a batch; 0 for a missing set."""
    return [0 if tokens is None else tokens.mask.shape[1] for tokens in _sets(batch)]


def widen(batch: Batch, widths: Sequence[int]) -> Batch:
    """`batch` with its sets padded to `widths`, in the order of `widths()`."""
    regions, grid, captions = map(_padded, _sets(batch), widths)
    assert captions is not None
    images = batch.images._replace(
        regions=regions,
        grid=grid,
        region_boxes=_padded_boxes(batch.images.region_boxes, widths[0]),
        grid_boxes=_padded_boxes(batch.images.grid_boxes, widths[1]),
    )
    return batch._replace(images=images, captions=captions)


def _padded_boxes(boxes: Tensor | None, width: int) -> Tensor | None:
    return None if boxes is None else F.pad(boxes, (0, 0, 0, width - boxes.shape[1]))


def _sets(batch: Batch) -> tuple[TokenSet | None, TokenSet | None, TokenSet | None]:
    return batch.images.regions, batch.images.grid, batch.captions


def _padded(tokens: TokenSet | None, width: int) -> TokenSet | None:
    missing = 0 if tokens is None else width - tokens.mask.shape[1]
    if tokens is None or not missing:
        return tokens
    features = (0, 0) * (tokens.values.dim() - 2)  # wordpiece ids have none; masked values are not read
    return TokenSet(F.pad(tokens.values, (*features, 0, missing)), F.pad(tokens.mask, (0, missing)))
