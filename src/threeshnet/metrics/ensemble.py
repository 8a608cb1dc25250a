"""The paper's late ensemble: the exact mean of the similarities of separately trained models."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from threeshnet.errors import DataError
from threeshnet.metrics.similarity import Similarity, SimilarityLike, as_similarity


class MeanSimilarity:
    """Mean of similarities of the same images and captions, block by block.

    >>> import torch
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


def _mean(blocks: Sequence[Tensor]) -> Tensor:
    total = blocks[0]
    for block in blocks[1:]:
        total = total + block
    return total / len(blocks)
