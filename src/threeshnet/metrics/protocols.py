"""The ways a split may be scored, each with the name that is printed beside its numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from threeshnet.errors import ConfigError, one_of
from threeshnet.metrics.ensemble import MeanSimilarity
from threeshnet.metrics.folds import fold_ranks, mean_of_folds
from threeshnet.metrics.ranks import Ranks, rank_similarity
from threeshnet.metrics.recalls import Recall, recall_of_ranks
from threeshnet.metrics.similarity import SimilarityLike

COCO_TESTALL_IMAGES = 5_000
COCO_TESTALL_CAPTIONS = 25_010  # 25,000 where the source keeps five an image
FOLDS = 5  # of five_fold_1k
FLICKR30K_TEST = 1_000, 5_000
COCO_NAMES = ("coco", "mscoco")
FLICKR30K_NAMES = ("f30k", "flickr30k")
# Names of data sets that hold the same photos, in whatever parts; those with `precomp` are SCAN's folders, which
# `make import` takes for names. COCO of 2017 is that of 2014 in other parts; Flickr30K extends Flickr8k (Young et al.,
# "From Image Descriptions to Visual Denotations", TACL 2, 2014).
SAME_PHOTOS = (
    frozenset({*COCO_NAMES, "coco2017", "coco_precomp"}),
    frozenset({*FLICKR30K_NAMES, "flickr8k", "f8k", "f30k_precomp", "f8k_precomp"}),
)


class Scored(NamedTuple):
    """What is scored: which data, and the image of each caption."""

    data: str  # name of the data set, as in the manifest
    split: str
    images: int
    owner: Tensor | np.ndarray  # [captions]
    trained_on: str | None = None  # data set of the training, where the checkpoint says it


def score(protocol: str, similarities: Sequence[SimilarityLike], scored: Scored) -> Recall:
    """Recalls by a protocol's name: full, transfer, five_fold_1k (one model each) or ensemble (two or more).

    Raises ConfigError for a protocol that does not exist or is not meant for this data.
    """
    return recall_by(protocol, rank(protocol, similarities, scored), scored)


def rank(protocol: str, similarities: Sequence[SimilarityLike], scored: Scored) -> Ranks:
    """The ranks behind `score`; those of `five_fold_1k` are within folds.  Raises ConfigError as it does."""
    if protocol not in PROTOCOLS:
        raise ConfigError(one_of("protocol", protocol, PROTOCOLS))
    return PROTOCOLS[protocol](similarities, scored)


def recall_by(protocol: str, ranks: Ranks, scored: Scored) -> Recall:
    """Recalls of ranks that a protocol gave."""
    folds = folds_of(protocol)
    return recall_of_ranks(ranks) if folds == 1 else mean_of_folds(ranks, scored.owner, folds=folds)


def folds_of(protocol: str) -> int:
    """Number of parts that are ranked by themselves and averaged."""
    return FOLDS if protocol == "five_fold_1k" else 1


def full(similarities: Sequence[SimilarityLike], scored: Scored) -> Ranks:
    """The whole split at once."""
    return rank_similarity(_single("full", similarities), scored.owner)


def transfer(similarities: Sequence[SimilarityLike], scored: Scored) -> Ranks:
    """The whole split at once, of a model trained on another data set, without photos of this one.

    Raises ConfigError where the two share photos, as far as their names say, and where it is not known what the model
    was trained on.
    """
    known, data = scored.trained_on, scored.data
    if known is None:
        raise ConfigError(
            "protocol='transfer' is for a model trained on other data, and the checkpoint does not say what data it "
            "was trained on; say it: trained_on=<data set>, or take protocol=full"
        )
    shared = any({known, data} <= names for names in SAME_PHOTOS)
    if known == data or shared:
        where = "which is scored" if known == data else f"which shares photos with {data!r}"
        raise ConfigError(
            f"protocol='transfer' is for a model trained on other data, and this one was trained on {known!r}, "
            f"{where}; take protocol=full"
        )
    return rank_similarity(_single("transfer", similarities), scored.owner)


def five_fold_1k(similarities: Sequence[SimilarityLike], scored: Scored) -> Ranks:
    """Each of five consecutive folds of 1,000 images of COCO testall by itself."""
    if not is_coco_5k(scored):
        raise ConfigError(
            f"protocol='five_fold_1k' is for COCO's testall ({COCO_TESTALL_IMAGES} images in the source's order) "
            f"and not for {scored.data}, split {scored.split!r}, with {scored.images} images; take protocol=full"
        )
    return fold_ranks(_single("five_fold_1k", similarities), scored.owner, folds=FOLDS)


def ensemble(similarities: Sequence[SimilarityLike], scored: Scored) -> Ranks:
    """The whole split at once, by the mean similarity of several models."""
    if len(similarities) < 2:
        raise ConfigError("protocol='ensemble' averages models and got one; give more: CKPT=\"a.ckpt b.ckpt\"")
    return rank_similarity(MeanSimilarity(similarities), scored.owner)


PROTOCOLS: dict[str, Callable[[Sequence[SimilarityLike], Scored], Ranks]] = {
    "full": full,
    "five_fold_1k": five_fold_1k,
    "transfer": transfer,
    "ensemble": ensemble,
}


def describe(protocol: str, scored: Scored) -> str:
    """The protocol in words; `COCO 5K` and `Flickr30K 1K` are said only of those very splits, whole and in order.

    >>> describe("full", Scored("demo", "test", 2, torch.tensor([0, 0, 1])))
    'full: demo, split test, 2 images, 3 captions'
    """
    counts = f"{scored.data}, split {scored.split}, {scored.images:,} images, {len(scored.owner):,} captions"
    known = "COCO 5K" if is_coco_5k(scored) else "Flickr30K 1K" if _is_flickr30k_1k(scored) else ""
    if protocol == "five_fold_1k":
        known = "COCO 1K, mean of 5 folds" if known else ""
    return f"{protocol}: {counts}" + (f" ({known})" if known else "")


def is_coco_5k(scored: Scored) -> bool:
    """Whether these are COCO's 5,000 held-out images, whole and in the source's order."""
    counted = scored.images == COCO_TESTALL_IMAGES and len(scored.owner) in (25_000, COCO_TESTALL_CAPTIONS)
    return scored.data in COCO_NAMES and scored.split == "testall" and counted and _in_order(scored.owner)


def _is_flickr30k_1k(scored: Scored) -> bool:
    counted = (scored.images, len(scored.owner)) == FLICKR30K_TEST
    return scored.data in FLICKR30K_NAMES and scored.split == "test" and counted and _in_order(scored.owner)


def _in_order(owner: Tensor | np.ndarray) -> bool:
    """Captions stand image by image, as in the source."""
    return bool((torch.as_tensor(owner).diff() >= 0).all())


def _single(protocol: str, similarities: Sequence[SimilarityLike]) -> SimilarityLike:
    if len(similarities) != 1:
        raise ConfigError(f"protocol={protocol!r} scores one model and got {len(similarities)}; take protocol=ensemble")
    return similarities[0]
