"""Where similarities come from: a matrix, embeddings, or (in `ensemble`) the mean of several of either.

All of them give blocks on request, so that G x Q numbers need not be held at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from threeshnet.errors import DataError


class Similarity(Protocol):
    """Similarities of G images and Q captions."""

    images: int
    captions: int

    def rows(self, start: int, stop: int) -> Tensor:
        """Those of some images with all captions, [stop - start, Q]."""
        ...

    def pairs(self, owner: Tensor) -> Tensor:
        """That of each caption with its image, [Q]; bit by bit what `rows` has at its place."""
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

    def rows(self, start: int, stop: int) -> Tensor:
        return self.matrix[start:stop]

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

    def rows(self, start: int, stop: int) -> Tensor:
        return (self.image_embeddings[start:stop] @ self.caption_embeddings.T).float()

    def pairs(self, owner: Tensor) -> Tensor:
        owners = self.image_embeddings[owner.to(self.image_embeddings.device)]
        return (owners * self.caption_embeddings).sum(dim=1).float()

    def part(self, images: Tensor, captions: Tensor) -> EmbeddingSimilarity:
        return EmbeddingSimilarity(self.image_embeddings[images], self.caption_embeddings[captions])


SimilarityLike = Similarity | Tensor | np.ndarray


def as_similarity(similarity: SimilarityLike | Sequence[Sequence[float]]) -> Similarity:
    """A matrix as a source of blocks; a source as it is."""
    if isinstance(similarity, Tensor | np.ndarray | Sequence):
        return MatrixSimilarity(torch.as_tensor(similarity))
    return similarity


def _double(embeddings: Tensor | np.ndarray) -> Tensor:
    return torch.as_tensor(embeddings).detach().double()
