"""Training-free corrections of hubs: what an item's nearness to a bank of other queries says against it.

The bank is an argument and holds queries that are known before testing: training captions where images are searched,
training photos where captions are. With the test queries themselves a correction would see the other questions before
it answers one; no published recall allows that.

Each correction takes a number from the similarity of every item, the greater the more of a hub it is to the bank:
- inverted softmax (Smith et al., ICLR 2017, equation 9): exp(beta s(q, x)) / sum over the bank of exp(beta s(b, x));
  in logarithms s(q, x) minus log-sum-exp / beta. As a bank of training queries: Querybank Normalisation (QB-Norm,
  Bogolin et al., CVPR 2022), whose dynamic form leaves queries alone whose nearest item is no bank query's nearest.
- CSLS (Conneau et al., ICLR 2018, equation 3): 2 s(q, x) - r(q) - r(x), r(x) the mean similarity of x and the k nearest
  of the bank; r(q) is the same for all items, so half of r(x) is taken here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from threeshnet.errors import ConfigError, DataError, one_of
from threeshnet.metrics.precision import caption_rows, image_rows
from threeshnet.metrics.similarity import EmbeddingSimilarity, SimilarityLike, as_similarity

BETA = 20.0  # inverse temperature of the authors of QB-Norm
CSLS_NEAREST = 10  # k of the authors of CSLS
BLOCK_CELLS = 1 << 22


class Hubs(NamedTuple):
    """Items that are the nearest of some query of a bank.  Which they are depends on the other items of the gallery."""

    items: Tensor  # [n, D]
    bank: Tensor  # [b, D]

    def among(self) -> Tensor:
        """Which of the items are, [n] bool.

        >>> Hubs(torch.eye(2), torch.tensor([[0.9, 0.1]])).among()
        tensor([ True, False])
        """
        source = EmbeddingSimilarity(self.items, self.bank)
        found = torch.zeros(source.images, dtype=torch.bool)
        size = max(BLOCK_CELLS // source.images, 1)
        for start in range(0, source.captions, size):
            nearest = source.block(slice(source.images), slice(start, start + size)).argmax(dim=0)
            found[nearest.cpu()] = True
        return found


class Correction(NamedTuple):
    """What a bank says of the items."""

    bias: Tensor  # [items] to be taken from the similarity of each item with any query
    hubs: Hubs | None = None  # only queries whose nearest item is one of these are corrected; None: all

    def part(self, chosen: Tensor) -> Correction:
        """Of a gallery of these items alone: an item's bias is its own, who are hubs is asked again."""
        hubs = None if self.hubs is None else self.hubs._replace(items=self.hubs.items[chosen])
        return Correction(self.bias[chosen], hubs)


def inverted_softmax(items: Tensor, bank: Tensor, *, beta: float = BETA) -> Correction:
    """Of items [n, D] by a bank of queries [b, D].

    >>> inverted_softmax(torch.eye(2), torch.tensor([[1.0, 0.0]]), beta=1.0).bias
    tensor([1., 0.], dtype=torch.float64)
    """
    if not beta > 0:
        raise ConfigError(f"beta={beta}: an inverse temperature, greater than 0")
    parts = [torch.logsumexp(beta * block.double(), dim=1) / beta for block in _blocks(items, bank)]
    return Correction(torch.cat(parts))


def dynamic_inverted_softmax(items: Tensor, bank: Tensor, *, beta: float = BETA) -> Correction:
    """The inverted softmax for those queries only whose nearest item is the nearest of some query of the bank."""
    return inverted_softmax(items, bank, beta=beta)._replace(hubs=Hubs(items, bank))


def csls(items: Tensor, bank: Tensor, *, k: int = CSLS_NEAREST) -> Correction:
    """Half the mean similarity of each item and its k nearest of the bank.

    >>> csls(torch.eye(2), torch.tensor([[1.0, 0.0], [0.5, 0.0]]), k=2).bias
    tensor([0.3750, 0.0000], dtype=torch.float64)
    """
    if not 1 <= k <= len(bank):
        raise ConfigError(f"k={k}: a number of nearest among the {len(bank)} queries of the bank")
    parts = [block.topk(k, dim=1).values.double().mean(dim=1) / 2 for block in _blocks(items, bank)]
    return Correction(torch.cat(parts))


CORRECTIONS: dict[str, Callable[[Tensor, Tensor], Correction]] = {
    "inverted_softmax": inverted_softmax,
    "dynamic_inverted_softmax": dynamic_inverted_softmax,
    "csls": csls,
}


class Corrected:
    """Similarities less what is known of the images (which changes t2i) or of the captions (which changes i2t).

    A source holds one of the two: a correction that is not for every query shifts the other direction's lists unevenly.
    """

    def __init__(self, similarity: SimilarityLike, correction: Correction, *, items: str) -> None:
        """`items`: images or captions, whichever the correction is of."""
        self.source, self.correction, self.items = as_similarity(similarity), correction, items
        self.images, self.captions = self.source.images, self.source.captions
        if items not in ("images", "captions"):
            raise ConfigError(one_of("items", items, ("images", "captions")))
        count = self.images if items == "images" else self.captions
        if len(correction.bias) != count:
            raise DataError(f"a correction of {len(correction.bias)} items for {count} {items}")

    def block(self, images: slice, captions: slice) -> Tensor:
        found = self.source.block(images, captions).double()
        taken = (
            self.correction.bias[images, None] * self.active[captions]
            if self.items == "images"
            else self.active[images, None] * self.correction.bias[captions]
        )
        return found - taken.to(found.device)

    def pairs(self, owner: Tensor) -> Tensor:
        found, owners = self.source.pairs(owner).double(), owner.cpu()
        by_image, by_caption = (
            (self.correction.bias, self.active) if self.items == "images" else (self.active, self.correction.bias)
        )
        return found - (by_image[owners] * by_caption).to(found.device)

    def part(self, images: Tensor, captions: Tensor) -> Corrected:
        chosen = images if self.items == "images" else captions
        return Corrected(self.source.part(images, captions), self.correction.part(chosen), items=self.items)

    @cached_property  # of the whole gallery nobody asks it where folds are ranked
    def active(self) -> Tensor:
        """1.0 for queries that are corrected, 0.0 for the others, [queries]."""
        queries = self.captions if self.items == "images" else self.images
        if self.correction.hubs is None:
            return torch.ones(queries, dtype=torch.float64)
        hubs = self.correction.hubs.among()
        rows = caption_rows(self.source) if self.items == "images" else image_rows(self.source)
        size = max(BLOCK_CELLS // len(hubs), 1)
        nearest = [rows(start, min(start + size, queries)).argmax(dim=1).cpu() for start in range(0, queries, size)]
        return hubs[torch.cat(nearest)].double()


def both_sides(
    name: str, similarity: EmbeddingSimilarity, images: Tensor, captions: Tensor
) -> tuple[Correction, Correction]:
    """What the bank's captions [m, D] say of the images, and its `images` [n, D] of the captions.

    Raises ConfigError for a correction that does not exist.
    """
    if name not in CORRECTIONS:
        raise ConfigError(one_of("correction", name, list(CORRECTIONS)))
    correct = CORRECTIONS[name]
    return correct(similarity.image_embeddings, captions), correct(similarity.caption_embeddings, images)


def corrected(
    name: str, similarity: EmbeddingSimilarity, images: Tensor, captions: Tensor
) -> tuple[Corrected, Corrected]:
    """Similarities for t2i, with the images corrected, and for i2t, with the captions; arguments of `both_sides`."""
    of_images, of_captions = both_sides(name, similarity, images, captions)
    return Corrected(similarity, of_images, items="images"), Corrected(similarity, of_captions, items="captions")


def _blocks(items: Tensor, bank: Tensor) -> Iterator[Tensor]:
    """Similarities of some items with the whole bank.  Raises DataError for an empty bank."""
    if not len(bank):
        raise DataError("the bank of a correction is empty; give the embeddings of training captions (or photos)")
    source = EmbeddingSimilarity(items, bank)
    size = max(BLOCK_CELLS // source.captions, 1)
    for start in range(0, source.images, size):
        yield source.block(slice(start, start + size), slice(source.captions))
