"""The metrics beyond recall of one model on a split, in the form of metrics.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from threeshnet.errors import DataError
from threeshnet.metrics.corrections import CORRECTIONS, corrected
from threeshnet.metrics.geometry import modality_gap, spread
from threeshnet.metrics.groups import Groups, recall_by_group
from threeshnet.metrics.hubness import hubness
from threeshnet.metrics.precision import percent_of, positions_of_owners
from threeshnet.metrics.ranks import Ranks, rank_similarity
from threeshnet.metrics.recalls import recall_of_ranks
from threeshnet.metrics.similarity import EmbeddingSimilarity, Similarity

PRECISIONS = ("map_at_r", "r_precision")


class Bank(NamedTuple):
    """Embeddings of training images and captions: the reference of the hub corrections."""

    images: Tensor  # [n, D]
    captions: Tensor  # [m, D]


def beyond_recall(
    similarity: Similarity,
    ranks: Ranks,
    owner: Tensor | np.ndarray,
    *,
    image_groups: Mapping[str, Groups] | None = None,
    caption_groups: Mapping[str, Groups] | None = None,
    bank: Bank | None = None,
) -> dict[str, Any]:
    """mAP@R and R-Precision in percent, hubness, recalls by group; for embeddings also modality gap and spread.

    `ranks` are those of the whole split. `image_groups` divide the image queries (i2t) and `caption_groups` the caption
    queries (t2i): kind -> groups. With a `bank`, embeddings are also scored under each hub correction.
    """
    sides = zip(("i2t", "t2i"), positions_of_owners(similarity, owner), strict=True)
    metrics: dict[str, Any] = {}
    for side, ranked in sides:
        percents = percent_of(ranked)
        metrics[side] = {name: percents[name] for name in PRECISIONS}
    metrics["hubness"] = hubness(similarity)
    if isinstance(similarity, EmbeddingSimilarity):
        images, captions = similarity.image_embeddings, similarity.caption_embeddings
        try:
            metrics["modality_gap"] = modality_gap(images, captions)
        except DataError as undefined:  # embeddings that cancel or are zero; the other numbers hold
            metrics["modality_gap"] = {"not_run": str(undefined)}
        metrics["spread"] = {"images": spread(images), "captions": spread(captions)}
        if bank is not None:
            metrics["corrections"] = _corrections(similarity, owner, bank)
    queries = {"i2t": (ranks.i2t, image_groups), "t2i": (ranks.t2i, caption_groups)}
    metrics["groups"] = {
        side: {kind: recall_by_group(numbers, groups) for kind, groups in (kinds or {}).items()}
        for side, (numbers, kinds) in queries.items()
    }
    return metrics


def constants(function: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of a function's keyword-only arguments, which its result depends on.

    >>> def nearest(rows, *, k=10): ...
    >>> constants(nearest)
    {'k': 10}
    """
    parameters = signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is Parameter.KEYWORD_ONLY}


def _corrections(similarity: EmbeddingSimilarity, owner: Tensor | np.ndarray, bank: Bank) -> dict[str, Any]:
    """Recalls and hubness under each correction: images by the bank's captions, captions by its images."""
    metrics: dict[str, Any] = {}
    for name in CORRECTIONS:
        by_images, by_captions = corrected(name, similarity, *bank)
        ranks = Ranks(rank_similarity(by_captions, owner).i2t, rank_similarity(by_images, owner).t2i)
        left = hubness(by_captions, sides=["i2t"]) | hubness(by_images, sides=["t2i"])
        metrics[name] = {**recall_of_ranks(ranks), "hubness": left}
    return metrics
