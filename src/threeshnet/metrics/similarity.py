"""Where similarities come from: a matrix, embeddings, or (in `ensemble`) the mean of several of either.

All of them give blocks on request, so that G x Q numbers need not be held at once.
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
        """Those of some images with some captions, [images, captions]; not to be written to: it may be the matrix."""
        ...

    def pairs(self, owner: Tensor) -> Tensor:
        """That of each caption with its image, [Q]."""
        ...

    def part(self, images: Tensor, captions: Tensor) -> Similarity:
        """Only these images and captions, by number."""
        ...


class MatrixSimilarity:
    """A [G, Q] matrix that is there already."""

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

    Summed in float64 and rounded to float32 once: a float32 product rounds by the place in the block and the kernel, so
    that equal embeddings would not be exact ties and ranks would depend on the machine.
    """

    def __init__(self, images: Tensor | np.ndarray, captions: Tensor | np.ndarray) -> None:
        self.image_embeddings, self.caption_embeddings = _double(images), _double(captions)
        shapes = list(self.image_embeddings.shape), list(self.caption_embeddings.shape)
        if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][1] != shapes[1][1]:
            found = f"{shapes[0]} and {shapes[1]}"
            raise DataError(f"embeddings have shapes {found}; expected [images, D] and [captions, D]")
        self.images, self.captions = shapes[0][0], shapes[1][0]

    def block(self, images: slice, captions: slice) -> Tensor:
        return (self.image_embeddings[images] @ self.caption_embeddings[captions].T).float()

    def pairs(self, owner: Tensor) -> Tensor:
        owners = owner.to(self.image_embeddings.device)
        parts = [
            (self.image_embeddings[numbers] * captions).sum(dim=1).float()
            for numbers, captions in zip(owners.split(PAIRS), self.caption_embeddings.split(PAIRS), strict=True)
        ]
        return torch.cat(parts)

    def part(self, images: Tensor, captions: Tensor) -> EmbeddingSimilarity:
        return EmbeddingSimilarity(self.image_embeddings[images], self.caption_embeddings[captions])


SimilarityLike = Similarity | Tensor | np.ndarray


def tiles(images: int, captions: int, cells: int) -> Iterator[tuple[slice, slice]]:
    """Parts of a [images, captions] matrix of about `cells` each, as square as they can be; images outside.

    Square, because a product of [g, D] and [q, D] reads (g + q) D numbers for g q results.

    >>> [(rows.stop, columns.stop) for rows, columns in tiles(3, 5, 6)]
    [(2, 3), (2, 5), (3, 3), (3, 5)]
    """
    rows = min(images, max(isqrt(cells), 1))
    columns = min(captions, max(cells // rows, 1)) if rows else 1
    for start in range(0, images, max(rows, 1)):
        for first in range(0, captions, columns):
            yield slice(start, min(start + rows, images)), slice(first, min(first + columns, captions))


def as_similarity(similarity: SimilarityLike | Sequence[Sequence[float]]) -> Similarity:
    """A matrix as a source of blocks; a source as it is."""
    if isinstance(similarity, Tensor | np.ndarray | Sequence):
        return MatrixSimilarity(torch.as_tensor(similarity))
    return similarity


def _double(embeddings: Tensor | np.ndarray) -> Tensor:
    return torch.as_tensor(embeddings).detach().double()
