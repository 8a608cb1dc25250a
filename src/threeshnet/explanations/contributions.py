"""What each place of a photo contributes to its similarity with a sentence, and whether that is true.

Two answers. The *share* splits the similarity exactly: pooling sorts each channel and takes a weighted sum, so every
value has one weight, that of the position where it was sorted. The *effect* is what the similarity loses when a place's
tokens are left out of the pooled set, sorted and weighted anew. `experiments/explanations` tests both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from threeshnet.explanations.places import PHOTO, TokensOfPhoto

NAMED = 3  # places that a test leaves out together
DRAWS = 64  # sets of as many random places
ENOUGH = 3.0  # times the cost of random places
NEARLY_ALL = 0.95  # of the draws: their mean may be 0 or less, and three times that is nothing to exceed
EXACT = 1e-4  # of a similarity, in float32


def shares(tokens: TokensOfPhoto, text: Tensor) -> list[Tensor]:
    """Each token's share [N] of the similarity with `text` [D], of every branch; padding has 0.

    They sum up to the similarity for every pooling that is a weighted sum of sorted values, and not for others.
    """
    return [(values * weights).sum(dim=-1) for values, weights in weighted_values(tokens, text)]


def weighted_values(tokens: TokensOfPhoto, text: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Values [N, D] of the tokens of every branch, 0 on padding, and the weight of each in the similarity.

    The gradient of a pooled channel is the weight that each value has in it, with the order of the sort held. Times
    the text's channel, divided by the length of the pooled vector, it is the value's weight in the similarity.
    """
    with torch.enable_grad():
        values = [branch.tokens.values.detach().clone().requires_grad_() for branch in tokens.branches]
        pooled = [
            branch.pooling(branch.tokens._replace(values=value))[0]
            for branch, value in zip(tokens.branches, values, strict=True)
        ]
        lengths = [  # a branch that counts half is divided by twice its length
            vector.detach().norm().clamp(min=1e-12) / branch.weight
            for vector, branch in zip(pooled, tokens.branches, strict=True)
        ]
        units = torch.stack([vector.detach() / length for vector, length in zip(pooled, lengths, strict=True)])
        whole = units.sum(dim=0).norm() if len(units) > 1 else 1.0
        parts = [vector @ text.to(vector) / (length * whole) for vector, length in zip(pooled, lengths, strict=True)]
        gradients = torch.autograd.grad(torch.stack(parts).sum(), values)
    values_and_weights = []
    for branch, value, gradient in zip(tokens.branches, values, gradients, strict=True):
        mask, weights = branch.tokens.mask[0], torch.zeros_like(gradient[0])
        weights[mask] = even_among_equals(value.detach()[0, mask], gradient[0, mask])
        values_and_weights.append((value.detach()[0].masked_fill(~mask.unsqueeze(-1), 0.0), weights))
    return values_and_weights


def even_among_equals(values: Tensor, weights: Tensor) -> Tensor:
    """`weights` [N, D] with the mean wherever `values` [N, D] of a channel are equal.

    The sort puts equal values in any order. Two cells with the same segmentation have the same scene token, and must
    not differ.

    >>> even_among_equals(torch.tensor([[2.0], [1.0], [2.0]]), torch.tensor([[0.5], [0.2], [0.3]])).flatten().tolist()
    [0.4..., 0.2..., 0.4...]
    """
    ordered, order = values.sort(dim=0, descending=True)
    first = torch.zeros_like(order[:1])
    group = torch.cat([first, (ordered[1:] != ordered[:-1]).cumsum(dim=0)])
    sums = torch.zeros_like(weights).scatter_add_(0, group, weights.gather(0, order))
    counts = torch.zeros_like(weights).scatter_add_(0, group, torch.ones_like(weights))
    return torch.zeros_like(weights).scatter_(0, order, (sums / counts.clamp(min=1)).gather(0, group))


def by_place(tokens: TokensOfPhoto, of_tokens: list[Tensor], part: str | None = None) -> Tensor:
    """Sums [places] of numbers [N] of the tokens of every branch; `part` takes the tokens of one part alone."""
    sums = of_tokens[0].new_zeros(len(tokens.places))
    for branch, numbers in zip(tokens.branches, of_tokens, strict=True):
        taken = torch.tensor([part in (None, name) for name in branch.parts], device=numbers.device)
        sums.index_add_(0, branch.places, torch.where(taken & branch.tokens.mask[0], numbers, 0.0))
    return sums


class DeletionTest(NamedTuple):
    """What leaving out the places named first costs, beside as many random ones."""

    named: float
    random: float  # mean of the draws; below 0 where leaving out places mostly raises the similarity
    beaten: float  # share of the draws that cost less than the named ones

    @property
    def passed(self) -> bool:
        """Whether the named ones cost something, `ENOUGH` times what random ones cost, and more than nearly all do."""
        return self.named > max(0.0, ENOUGH * self.random) and self.beaten >= NEARLY_ALL

    @classmethod
    def of(cls, named: float, random: Sequence[float]) -> DeletionTest:
        """Of the cost of the named places, and of the draws."""
        return cls(named, sum(random) / len(random), sum(cost < named for cost in random) / len(random))


def deletion_test(tokens: TokensOfPhoto, text: Tensor, order: list[int], seed: int = 0) -> DeletionTest | None:
    """Leave out the first `NAMED` places of `order`, and random ones of it; None where there are too few for a choice.

    `order` has the places that are parts of the photo, without the photo as a whole.
    """
    if len(order) <= NAMED:
        return None
    cost, *random = costs(tokens, text, [order[:NAMED], *random_places(order, seed)]).tolist()
    return DeletionTest.of(cost, random)


def random_places(places: list[int], seed: int) -> list[list[int]]:
    """`DRAWS` times `NAMED` different places, the same for the same set of places."""
    generator, ordered = torch.Generator().manual_seed(seed), sorted(places)
    draws = (torch.randperm(len(ordered), generator=generator)[:NAMED].tolist() for _ in range(DRAWS))
    return [[ordered[n] for n in draw] for draw in draws]


def effects(tokens: TokensOfPhoto, text: Tensor) -> tuple[float, Tensor]:
    """The similarity with `text` [D], and what leaving out each place costs [places]."""
    everything = torch.ones(1, len(tokens.places), dtype=torch.bool, device=text.device)
    score = float(_similarity(tokens, everything, text)[0])
    return score, costs(tokens, text, [[place] for place in range(len(tokens.places))])


@torch.no_grad()
def costs(tokens: TokensOfPhoto, text: Tensor, sets: Sequence[Sequence[int]]) -> Tensor:
    """What the similarity with `text` [D] loses when the places of each set are left out: [sets]."""
    keep = torch.ones(1 + len(sets), len(tokens.places), dtype=torch.bool)
    for row, places in enumerate(sets, start=1):
        keep[row, list(places)] = False
    similarity = _similarity(tokens, keep.to(text.device), text)
    return similarity[0] - similarity[1:]


def ranked(tokens: TokensOfPhoto, contributions: Tensor) -> list[int]:
    """Places that are parts of the photo and have tokens, by their contribution, largest first."""
    order, pooled = contributions.argsort(descending=True, stable=True).tolist(), tokens.pooled
    return [place for place in order if place in pooled and tokens.places[place].kind != PHOTO]


@torch.no_grad()
def _similarity(tokens: TokensOfPhoto, keep: Tensor, text: Tensor) -> Tensor:
    embeddings = tokens.embeddings(keep)
    return embeddings @ text.to(embeddings)
