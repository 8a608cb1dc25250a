"""Sources of similarities: a matrix, embeddings, or the mean of several models.

A source computes blocks on request, so that G x Q numbers are never held at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isqrt
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from threeshnet.errors import DataError

PAIRS = 1 << 14  # pairs multiplied at once: 34 MB at D 256


class Similarity(Protocol):
    """Similarities of G images and Q captions."""

    images: int
    captions: int

    def block(self, images: slice, captions: slice) -> Tensor:
        """Similarities [images, captions] of a block; read-only, because it may be a view of the matrix."""
        ...

    def pairs(self, owner: Tensor) -> Tensor:
        """Similarity of each caption with its own image, [Q]; `owner` [Q] is the image of each caption."""
        ...

    def part(self, images: Tensor, captions: Tensor) -> Similarity:
        """The source of these images and captions alone, given by number."""
        ...


class MatrixSimilarity:
    """Similarities in a [G, Q] matrix.  Raises DataError for another number of dimensions."""

    def __init__(self, matrix: Tensor | np.ndarray) -> None:
        self.matrix = torch.as_tensor(matrix).detach()
        if self.matrix.ndim != 2:
            raise DataError(f"similarity has shape {list(self.matrix.shape)}; expected [images, captions]")
        self.images, self.captions = self.matrix.shape

    def block(self, images: slice, captions: slice) -> Tensor:
        return self.matrix[images, captions]

    def pairs(self, owner: Tensor) -> Tensor:
        owner = owner.to(self.matrix.device)
        return self.matrix[owner, torch.arange(self.captions, device=self.matrix.device)]

    def part(self, images: Tensor, captions: Tensor) -> MatrixSimilarity:
        return MatrixSimilarity(self.matrix[images][:, captions])


class EmbeddingSimilarity:
    """Inner products of image embeddings [G, D] and caption embeddings [Q, D].

    They are summed in float64 and rounded to float32 once. The rounding of a float32 product depends on the block and
    the kernel: equal embeddings would not be exact ties, and ranks would depend on the machine. Raises DataError unless
    both have two dimensions and the same width.
    """

    def __init__(self, images: Tensor | np.ndarray, captions: Tensor | np.ndarray) -> None:
        self.image_embeddings, self.caption_embeddings = _double(images), _double(captions)
        shapes = list(self.image_embeddings.shape), list(self.caption_embeddings.shape)
        if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][1] != shapes[1][1]:
            both = f"{shapes[0]} and {shapes[1]}"
            raise DataError(f"embeddings have shapes {both}; expected [images, D] and [captions, D]")
        self.images, self.captions = shapes[0][0], shapes[1][0]

    def block(self, images: slice, captions: slice) -> Tensor:
        return (self.image_embeddings[images] @ self.caption_embeddings[captions].T).float()

    def pairs(self, owner: Tensor) -> Tensor:
        return self.cells(owner, torch.arange(self.captions))

    def cells(self, images: Tensor, captions: Tensor) -> Tensor:
        """Similarity of each of `images` [n] with the one of `captions` [n] beside it, [n]."""
        where = self.image_embeddings.device
        parts = [
            (self.image_embeddings[some] * self.caption_embeddings[others]).sum(dim=1).float()
            for some, others in zip(images.to(where).split(PAIRS), captions.to(where).split(PAIRS), strict=True)
        ]
        return torch.cat(parts)

    def part(self, images: Tensor, captions: Tensor) -> EmbeddingSimilarity:
        return EmbeddingSimilarity(self.image_embeddings[images], self.caption_embeddings[captions])


class MeanSimilarity:
    """Mean of the similarities of separately trained models, block by block: the paper's late ensemble.

    Raises DataError unless all parts have the same numbers of images and captions.

    >>> one, other = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 1.0]])
    >>> MeanSimilarity([one, other]).block(slice(1), slice(2))
    tensor([[0.5000, 1.0000]])
    """

    def __init__(self, parts: Sequence[SimilarityLike]) -> None:
        self.parts: list[Similarity] = [as_similarity(part) for part in parts]
        sizes = {(part.images, part.captions) for part in self.parts}
        if len(sizes) != 1:
            raise DataError(f"an ensemble needs models scored on the same data; (images, captions) are {sorted(sizes)}")
        self.images, self.captions = sizes.pop()

    def block(self, images: slice, captions: slice) -> Tensor:
        return _mean([part.block(images, captions) for part in self.parts])

    def pairs(self, owner: Tensor) -> Tensor:
        return _mean([part.pairs(owner) for part in self.parts])

    def part(self, images: Tensor, captions: Tensor) -> MeanSimilarity:
        return MeanSimilarity([part.part(images, captions) for part in self.parts])


SimilarityLike = Similarity | Tensor | np.ndarray


def tiles(images: int, captions: int, cells: int) -> Iterator[tuple[slice, slice]]:
    """Tiles of an [images, captions] matrix of about `cells` cells each, images in the outer loop.

    Tiles are square where possible: a product of [g, D] and [q, D] reads (g + q) D numbers for g q results.

    >>> [(rows.stop, columns.stop) for rows, columns in tiles(3, 5, 6)]
    [(2, 3), (2, 5), (3, 3), (3, 5)]
    """
    rows = min(images, max(isqrt(cells), 1))
    columns = min(captions, max(cells // rows, 1)) if rows else 1
    for start in range(0, images, max(rows, 1)):
        for first in range(0, captions, columns):
            yield slice(start, min(start + rows, images)), slice(first, min(first + columns, captions))


def as_similarity(similarity: SimilarityLike | Sequence[Sequence[float]]) -> Similarity:
    """A matrix as a source of similarities; a source unchanged."""
    if isinstance(similarity, Tensor | np.ndarray | Sequence):
        return MatrixSimilarity(torch.as_tensor(similarity))
    return similarity


def _double(embeddings: Tensor | np.ndarray) -> Tensor:
    return torch.as_tensor(embeddings).detach().double()


def _mean(blocks: Sequence[Tensor]) -> Tensor:
    total = blocks[0]
    for block in blocks[1:]:
        total = total + block
    return total / len(blocks)
