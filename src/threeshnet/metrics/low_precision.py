"""Counts similarities above thresholds in low precision; what lies too near a threshold is counted again exactly.

A product of float32 matrices takes half the time of a float64 one, of bfloat16 matrices a quarter where the processor
has instructions for it. The counts are those of `EmbeddingSimilarity.block`: a bound on the error says which
similarities are certain, and all others are computed once more in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from threeshnet.metrics.similarity import EmbeddingSimilarity, Similarity
from threeshnet.nn.precision import cpu_has_bfloat16

ROWS = 1 << 14  # embeddings that are rounded at once
NARROWEST = 64  # torch multiplies by other kernels below it, which sum bfloat16 in bfloat16
SHORTEST, LONGEST = 1e-10, 1e10  # lengths of embeddings whose products neither overflow nor vanish in float32
TINY = 1e-27  # 2**-126, below which numbers may become 0, times the longest
# Shares of a block above which the next precision is faster: similarities that reach a threshold, and near ties.
MANY, NEAR = 1 / 32, 1 / 256
SUM = 2.0**-24  # unit roundoff of float32, in which products of both precisions are summed


class Rounded(NamedTuple):
    """Embeddings in one precision, and a bound on the error of their inner products."""

    images: Tensor  # [G, D]
    captions: Tensor  # [Q, D]
    error: float  # of every inner product before it is rounded to the precision

    def margins(self, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        """Float32 values `low`, `high` for thresholds: below `low` a similarity is less, from `high` on it is not."""
        exact = thresholds.double()
        relative = torch.finfo(self.images.dtype).eps / 2 + 8 * SUM  # rounding of the block, a threshold and these two
        margin = self.error + relative * (exact.abs() + self.error)
        return (exact - margin).float(), (exact + margin).float()


class LowPrecision:
    """Counts in the lowest precision that is worth it for these embeddings, and in the next one when it is not."""

    def __init__(self, source: Similarity, precisions: Sequence[torch.dtype] | None = None) -> None:
        """`precisions` from the lowest on; float64 is the caller's. None takes those of this machine."""
        self.source: Any = source
        self.precisions = list(precisions_of(source) if precisions is None else precisions)
        self.rounded: Rounded | None = None

    def counts(
        self, images: slice, captions: slice, best: Tensor, right: Tensor, own: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """Captions at least as similar as `best` [images], and images at least as similar as `right` [captions].

        `own` are the cells of true pairs within the block, which do not count. None where float64 has to count.
        """
        sides = images.stop - images.start, captions.stop - captions.start
        while self.precisions:
            if self.precisions[0] == torch.bfloat16 and min(sides) < NARROWEST:
                return None
            self.rounded = self.rounded or round_embeddings(self.source, self.precisions[0])
            if self.rounded and (found := self._counts(self.rounded, images, captions, best, right, own)) is not None:
                return found
            del self.precisions[0]
            self.rounded = None
        return None

    def _counts(
        self, rounded: Rounded, images: slice, captions: slice, best: Tensor, right: Tensor, own: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """None when too many similarities are near a threshold, or when the error of one exceeds its bound."""
        with torch.autocast("cpu", enabled=False):
            block = rounded.images[images] @ rounded.captions[captions].T
        low, high = rounded.margins(right[own[1]])
        if not ((low <= block[own]) & (block[own] <= high)).all():  # this machine does not sum in float32
            return None
        block[own] = -torch.inf
        found, corner = [], (images.start, captions.start)
        for dim, thresholds in ((1, best), (0, right)):
            low, high = rounded.margins(thresholds)
            if (reaching := _reaching(block, low, dim)) is None:
                return None
            cells, values = reaching
            lines = cells[1 - dim]
            is_above = values >= high[lines]
            near = torch.nonzero(~is_above).flatten()
            if len(near) > NEAR * block.numel():
                return None
            exact = self.source.cells(*(cell[near] + start for cell, start in zip(cells, corner, strict=True)))
            is_above[near] = exact >= thresholds[lines[near]]
            found.append(torch.bincount(lines[is_above], minlength=len(thresholds)))
        return found[0], found[1]


def _reaching(block: Tensor, low: Tensor, dim: int) -> tuple[tuple[Tensor, Tensor], Tensor] | None:
    """Cells (rows, columns) of at least `low` of their row (dim 1) or column (dim 0), with their similarities.

    None where there are too many.
    """
    bits = block.view(torch.int16 if block.dtype == torch.bfloat16 else torch.int32)
    # The bits of positive numbers are ordered as the numbers are, and those of negative ones are negative integers: the
    # integers' maximum is that of the numbers where it is positive, and comes in a tenth of the time.
    chosen = torch.nonzero((bits.amax(dim).view(block.dtype) >= low) | (low <= 0)).flatten()
    some = block.index_select(1 - dim, chosen).float()  # few rows or columns, for a trained model
    reach = some >= low[chosen].unsqueeze(dim)
    if reach.count_nonzero() > MANY * block.numel():
        return None
    rows, columns = torch.nonzero(reach, as_tuple=True)
    values = some[rows, columns]
    return ((chosen[rows], columns) if dim else (rows, chosen[columns])), values


def precisions_of(source: Similarity) -> list[torch.dtype]:
    """Precisions in which similarities of this source can be counted on this machine, the fastest first.

    None for matrices, whose similarities are there already, and for GPUs.
    """
    if not isinstance(source, EmbeddingSimilarity) or source.image_embeddings.device.type != "cpu":
        return []
    exact = torch.get_float32_matmul_precision() == "highest"  # other settings round float32 matrices to fewer bits
    return [*([torch.bfloat16] if cpu_has_bfloat16() else []), *([torch.float32] if exact else [])]


def round_embeddings(source: EmbeddingSimilarity, precision: torch.dtype) -> Rounded | None:
    """The embeddings in `precision`; None where their products could overflow or vanish in it.

    With a' for a in the precision, |a'b' - ab| <= |a' - a| |b| + |a'| |b' - b| (Cauchy and Schwarz). A sum of D
    products in float32, in any order, adds at most D u / (1 - D u) |a'| |b'| (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1), and TINY a product that vanishes.
    """
    images, image_length, image_error = _rounded(source.image_embeddings, precision)
    captions, caption_length, caption_error = _rounded(source.caption_embeddings, precision)
    terms, steps = images.shape[1], images.shape[1] * SUM
    shortest, longest = sorted((image_length, caption_length))
    if shortest < SHORTEST or longest > LONGEST or steps > 0.1:
        return None
    lengths = image_length + image_error, caption_length + caption_error
    error = image_error * caption_length + lengths[0] * caption_error
    error += steps / (1 - steps) * lengths[0] * lengths[1] + terms * TINY
    return Rounded(images, captions, error * (1 + 1e-6))  # the bound itself is rounded


def _rounded(embeddings: Tensor, precision: torch.dtype) -> tuple[Tensor, float, float]:
    """Embeddings in `precision`, the length of the longest, and that of the largest difference."""
    result = torch.empty(embeddings.shape, dtype=precision)
    length = error = 0.0
    for start in range(0, len(embeddings), ROWS):
        part = slice(start, start + ROWS)
        result[part] = embeddings[part]
        length = max(length, float(embeddings[part].norm(dim=1).max()))
        error = max(error, float((embeddings[part] - result[part]).norm(dim=1).max()))
    return result, length, error
