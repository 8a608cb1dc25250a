"""The best of a gallery for every query, in tiles: no similarity is held longer than its tile."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from threeshnet.metrics.similarity import tiles


class Blocks(Protocol):
    """Similarities on request, as in `threeshnet.metrics.similarity`; whatever asks has its queries in the rows."""

    images: int
    captions: int

    def block(self, images: slice, captions: slice) -> Tensor: ...


class Products:
    """Inner products of embeddings [rows, D] and [columns, D] in their own precision.

    `EmbeddingSimilarity` sums in float64, so that equal embeddings are exact ties and ranks can be trusted. A search
    needs no such ties.
    """

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        self.rows, self.columns = rows, columns
        self.images, self.captions = len(rows), len(columns)

    def block(self, images: slice, captions: slice) -> Tensor:
        """[rows, columns]"""
        return self.rows[images] @ self.columns[captions].T


class Nearest(NamedTuple):
    """The best columns of every row, the best first."""

    values: Tensor  # [rows, k]
    numbers: Tensor  # [rows, k] int64


def nearest(source: Blocks, k: int, cells: int) -> Nearest:
    """The k columns (all, where there are fewer) of highest similarity for every row, `cells` similarities at a time.

    >>> nearest(Products(torch.tensor([[1.0]]), torch.tensor([[0.3], [0.9], [0.5]])), 2, cells=1).numbers
    tensor([[1, 2]])
    """
    k = min(k, source.captions)
    values, numbers = torch.full((source.images, k), -torch.inf), torch.zeros(source.images, k, dtype=torch.long)
    for rows, columns in tiles(source.images, source.captions, cells):
        block = source.block(rows, columns)
        here = block.topk(min(k, block.shape[1]), dim=1)
        among = torch.cat([values[rows], here.values], dim=1)
        best = among.topk(k, dim=1)
        known = torch.cat([numbers[rows], here.indices + columns.start], dim=1)
        values[rows], numbers[rows] = best.values, known.gather(1, best.indices)
    return Nearest(values, numbers)
