"""Training-free hub correction: items that are similar to many queries of a bank get lower similarities.

The bank holds queries known before testing: training captions when images are searched, training photos when captions
are. A bank of test queries would let a correction see other questions before it answers one, which no published recall
allows.

Each correction subtracts a bias from the similarity of every item, larger for larger hubs of the bank:
- inverted softmax (Smith et al., ICLR 2017, equation 9): exp(beta s(q, x)) / sum over the bank of exp(beta s(b, x));
  in logarithms s(q, x) minus log-sum-exp / beta. With a bank of training queries it is Querybank Normalisation
  (QB-Norm, Bogolin et al., CVPR 2022). Its dynamic form corrects only queries whose nearest item is a hub of the bank.
- CSLS (Conneau et al., ICLR 2018, equation 3): 2 s(q, x) - r(q) - r(x), with r(x) the mean similarity of x to its k
  nearest of the bank. r(q) is the same for all items, so the bias is r(x) / 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from threeshnet.errors import ConfigError, DataError, one_of
from threeshnet.metrics.precision import blocks, caption_rows, image_rows
from threeshnet.metrics.similarity import EmbeddingSimilarity, SimilarityLike, as_similarity

BETA = 20.0  # inverse temperature of the authors of QB-Norm
CSLS_NEAREST = 10  # k of the authors of CSLS


class Hubs(NamedTuple):
    """Items that are the nearest item of some query of a bank; they depend on the other items of the gallery."""

    items: Tensor  # [n, D]
    bank: Tensor  # [b, D]

    def among(self) -> Tensor:
        """Which of the items are hubs, [n] bool.

        >>> Hubs(torch.eye(2), torch.tensor([[0.9, 0.1]])).among()
        tensor([ True, False])
        """
        source = EmbeddingSimilarity(self.items, self.bank)
        result = torch.zeros(source.images, dtype=torch.bool)
        for _, block in blocks(caption_rows(source), source.captions, source.images):
            result[block.argmax(dim=1).cpu()] = True
        return result


class Correction(NamedTuple):
    """A bias for each item, and the queries that it applies to."""

    bias: Tensor  # [items], subtracted from the similarity of the item with any query
    hubs: Hubs | None = None  # corrects only queries whose nearest item is one of these; None corrects all

    def part(self, chosen: Tensor) -> Correction:
        """The correction of a gallery of these items alone: biases stay, and hubs are found again."""
        hubs = None if self.hubs is None else self.hubs._replace(items=self.hubs.items[chosen])
        return Correction(self.bias[chosen], hubs)


def inverted_softmax(items: Tensor, bank: Tensor, *, beta: float = BETA) -> Correction:
    """The correction of items [n, D] by a bank of queries [b, D].  Raises ConfigError for a `beta` of 0 or less.

    >>> inverted_softmax(torch.eye(2), torch.tensor([[1.0, 0.0]]), beta=1.0).bias
    tensor([1., 0.], dtype=torch.float64)
    """
    if not beta > 0:
        raise ConfigError(f"beta={beta}: expected an inverse temperature greater than 0")
    parts = [torch.logsumexp(beta * block.double(), dim=1) / beta for block in _blocks(items, bank)]
    return Correction(torch.cat(parts))


def dynamic_inverted_softmax(items: Tensor, bank: Tensor, *, beta: float = BETA) -> Correction:
    """The inverted softmax for queries whose nearest item is a hub of the bank; others stay as they are."""
    return inverted_softmax(items, bank, beta=beta)._replace(hubs=Hubs(items, bank))


def csls(items: Tensor, bank: Tensor, *, k: int = CSLS_NEAREST) -> Correction:
    """The CSLS correction: half the mean similarity of each item to its k nearest queries of the bank.

    Raises ConfigError for a `k` outside 1 to the size of the bank.

    >>> csls(torch.eye(2), torch.tensor([[1.0, 0.0], [0.5, 0.0]]), k=2).bias
    tensor([0.3750, 0.0000], dtype=torch.float64)
    """
    if not 1 <= k <= len(bank):
        raise ConfigError(f"k={k}: expected 1 to {len(bank)}, the number of queries in the bank")
    parts = [block.topk(k, dim=1).values.double().mean(dim=1) / 2 for block in _blocks(items, bank)]
    return Correction(torch.cat(parts))


CORRECTIONS: dict[str, Callable[[Tensor, Tensor], Correction]] = {
    "inverted_softmax": inverted_softmax,
    "dynamic_inverted_softmax": dynamic_inverted_softmax,
    "csls": csls,
}


class Corrected:
    """Similarities minus the correction of the images (for t2i) or of the captions (for i2t).

    One source holds one correction: the dynamic form would shift the other direction's rankings unevenly.
    """

    def __init__(self, similarity: SimilarityLike, correction: Correction, *, items: str) -> None:
        """`items` says which the correction is for: images or captions.

        Raises ConfigError for another name, and DataError for a correction of another number of items.
        """
        self.source, self.correction, self.items = as_similarity(similarity), correction, items
        self.images, self.captions = self.source.images, self.source.captions
        if items not in ("images", "captions"):
            raise ConfigError(one_of("items", items, ("images", "captions")))
        count = self.images if items == "images" else self.captions
        if len(correction.bias) != count:
            raise DataError(f"a correction of {len(correction.bias)} items for {count} {items}")

    def block(self, images: slice, captions: slice) -> Tensor:
        result = self.source.block(images, captions).double()
        taken = (
            self.correction.bias[images, None] * self.active[captions]
            if self.items == "images"
            else self.active[images, None] * self.correction.bias[captions]
        )
        return result - taken.to(result.device)

    def pairs(self, owner: Tensor) -> Tensor:
        result, owners = self.source.pairs(owner).double(), owner.cpu()
        by_image, by_caption = (
            (self.correction.bias, self.active) if self.items == "images" else (self.active, self.correction.bias)
        )
        return result - (by_image[owners] * by_caption).to(result.device)

    def part(self, images: Tensor, captions: Tensor) -> Corrected:
        chosen = images if self.items == "images" else captions
        return Corrected(self.source.part(images, captions), self.correction.part(chosen), items=self.items)

    @cached_property  # when folds are ranked, the whole gallery never needs it
    def active(self) -> Tensor:
        """1.0 for corrected queries, 0.0 for others, [queries]."""
        queries = self.captions if self.items == "images" else self.images
        if self.correction.hubs is None:
            return torch.ones(queries, dtype=torch.float64)
        hubs = self.correction.hubs.among()
        rows = caption_rows(self.source) if self.items == "images" else image_rows(self.source)
        nearest = [block.argmax(dim=1).cpu() for _, block in blocks(rows, queries, len(hubs))]
        return hubs[torch.cat(nearest)].double()


def corrected(
    name: str, similarity: EmbeddingSimilarity, images: Tensor, captions: Tensor
) -> tuple[Corrected, Corrected]:
    """Similarities with images corrected by a bank's `captions` [m, D] (for t2i), and captions by its `images` [n, D].

    Raises ConfigError for a correction that does not exist.
    """
    if name not in CORRECTIONS:
        raise ConfigError(one_of("correction", name, list(CORRECTIONS)))
    correct = CORRECTIONS[name]
    of_images = correct(similarity.image_embeddings, captions)
    of_captions = correct(similarity.caption_embeddings, images)
    return Corrected(similarity, of_images, items="images"), Corrected(similarity, of_captions, items="captions")


def _blocks(items: Tensor, bank: Tensor) -> Iterator[Tensor]:
    """Similarities [items, bank], some items at a time.  Raises DataError for an empty bank."""
    if not len(bank):
        raise DataError("the bank of a correction is empty; give the embeddings of training captions (or photos)")
    source = EmbeddingSimilarity(items, bank)
    for _, block in blocks(image_rows(source), source.images, source.captions):
        yield block
