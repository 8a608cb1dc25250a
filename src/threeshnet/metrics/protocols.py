"""Evaluation protocols; the name of the protocol is printed with every number.

`full` ranks a whole split. `transfer` does so with a model trained on another data set, and `ensemble` by the mean
similarity of several models. `five_fold_1k` ranks each of five consecutive folds of 1,000 images of COCO testall.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from threeshnet.errors import ConfigError, one_of
from threeshnet.metrics.coco_order import FIRST, image_order
from threeshnet.metrics.ranks import Ranks, rank_similarity
from threeshnet.metrics.recalls import Recall, fold_ranks, mean_of_folds, recall_of_ranks
from threeshnet.metrics.similarity import MeanSimilarity, SimilarityLike

PROTOCOLS = ("full", "five_fold_1k", "transfer", "ensemble")
COCO_TESTALL_IMAGES = 5_000
COCO_TESTALL_CAPTIONS = 25_000, 25_010  # five an image, and all of them
FOLDS = 5  # of five_fold_1k
FLICKR30K_TEST = 1_000, 5_000
# Names with `precomp` are those of SCAN's folders, which `make import` uses as names of data sets.
COCO_NAMES = ("coco", "mscoco", "coco_precomp")
FLICKR30K_NAMES = ("f30k", "flickr30k", "f30k_precomp")
# Names of data sets that share photos. COCO 2017 divides the photos of COCO 2014 otherwise;
# Flickr30K extends Flickr8k (Young et al., "From Image Descriptions to Visual Denotations", TACL 2, 2014).
SAME_PHOTOS = (
    frozenset({*COCO_NAMES, "coco2017"}),
    frozenset({*FLICKR30K_NAMES, "flickr8k", "f8k", "f8k_precomp"}),
)


class Scored(NamedTuple):
    """The data that are scored, and what is known about the training."""

    data: str  # name of the data set, as in the manifest
    split: str
    images: int
    owner: Tensor | np.ndarray  # [captions]
    trained_on: str | None = None  # data set of the training; None if the checkpoint does not say
    image_ids: Sequence[str] | None = None  # identify COCO's order; None if unknown
    train_splits: Sequence[str] = ()  # of `trained_on`, if the checkpoint says


def score(protocol: str, similarities: Sequence[SimilarityLike], scored: Scored) -> Recall:
    """Recalls by protocol: of two models or more by `ensemble`, of one by the others.

    Raises ConfigError for a protocol that does not exist or does not apply to these data.
    """
    return recall_by(protocol, rank(protocol, similarities, scored), scored)


def rank(protocol: str, similarities: Sequence[SimilarityLike], scored: Scored) -> Ranks:
    """The ranks of `score`; those of `five_fold_1k` are within folds.  Raises ConfigError as `score` does."""
    check_protocol(protocol, len(similarities), scored)
    source, folds = MeanSimilarity(similarities) if len(similarities) > 1 else similarities[0], folds_of(protocol)
    return rank_similarity(source, scored.owner) if folds == 1 else fold_ranks(source, scored.owner, folds=folds)


def recall_by(protocol: str, ranks: Ranks, scored: Scored) -> Recall:
    """Recalls from the ranks of a protocol."""
    folds = folds_of(protocol)
    return recall_of_ranks(ranks) if folds == 1 else mean_of_folds(ranks, scored.owner, folds=folds)


def folds_of(protocol: str) -> int:
    """Number of folds that are ranked separately and averaged; 1 for a whole split."""
    return FOLDS if protocol == "five_fold_1k" else 1


def check_protocol(protocol: str, models: int, scored: Scored) -> None:
    """Raises ConfigError, before anything is encoded, when `rank` would refuse this number of models or these data."""
    if protocol not in PROTOCOLS:
        raise ConfigError(one_of("protocol", protocol, PROTOCOLS))
    if protocol == "ensemble" and models < 2:
        raise ConfigError("protocol='ensemble' averages models and got one; give more: CKPT=\"a.ckpt b.ckpt\"")
    if protocol != "ensemble" and models != 1:
        raise ConfigError(f"protocol={protocol!r} scores one model and got {models}; take protocol=ensemble")
    if protocol == "transfer":
        _check_transfer(scored)
    if protocol == "five_fold_1k":
        _check_five_folds(scored)


def _check_transfer(scored: Scored) -> None:
    """Raises ConfigError when the data sets share photos by their names, or the training's data set is unknown."""
    trained_on, data = scored.trained_on, scored.data
    start = "protocol='transfer' is for a model trained on other data, and"
    if trained_on is None:
        raise ConfigError(
            f"{start} the checkpoint does not say what data it was trained on; say it: trained_on=<data set>, or take "
            "protocol=full"
        )
    if trained_on == data:
        raise ConfigError(f"{start} this one was trained on {trained_on!r}, which is scored; take protocol=full")
    if share_photos(trained_on, data):
        raise ConfigError(
            f"{start} this one was trained on {trained_on!r}, which shares photos with {data!r}: no protocol is clean "
            "here; protocol=full says beside its numbers that photos of the training may be among those scored"
        )


def _check_five_folds(scored: Scored) -> None:
    reasons = why_not_coco_5k(scored)
    if not reasons and _image_order(scored) == "other":
        reasons = [
            f"images do not stand in the order of dataset_coco.json, whose first test image is {FIRST}: folds of "
            "another order are other folds"
        ]
    if reasons:
        raise ConfigError(
            f"protocol='five_fold_1k' is for COCO's testall, whole and in the source's order: {'; '.join(reasons)}; "
            "take protocol=full"
        )


def describe(protocol: str, scored: Scored) -> str:
    """The protocol and its data in words; `COCO 5K` and `Flickr30K 1K` name only those splits, whole and in order.

    >>> describe("full", Scored("demo", "test", 2, torch.tensor([0, 0, 1])))
    'full: demo, split test, 2 images, 3 captions'
    """
    counts = f"{scored.data}, split {scored.split}, {scored.images:,} images, {len(scored.owner):,} captions"
    benchmark = "COCO 5K" if is_coco_5k(scored) else "Flickr30K 1K" if _is_flickr30k_1k(scored) else ""
    if protocol == "five_fold_1k":
        unseen = "" if _image_order(scored) == "source" else ", images in the order of the shards"
        benchmark = f"COCO 1K, mean of 5 folds{unseen}" if benchmark else ""
    warned = warning(scored)
    return f"{protocol}: {counts}" + (f" ({benchmark})" if benchmark else "") + (f"; {warned}" if warned else "")


def warning(scored: Scored) -> str:
    """Warning that the model has seen, or may have seen, these photos in training; empty otherwise."""
    trained = scored.trained_on
    if trained == scored.data and scored.split in scored.train_splits:
        return f"trained on this split ({', '.join(scored.train_splits)}): these numbers say what was learned by heart"
    if trained is not None and trained != scored.data and share_photos(trained, scored.data):
        return f"trained on {trained}, which shares photos with {scored.data}: some of these may have been seen"
    return ""


def share_photos(one: str, other: str) -> bool:
    """Whether two data sets share photos, according to their names."""
    return any({one, other} <= names for names in SAME_PHOTOS)


def is_coco_5k(scored: Scored) -> bool:
    """Whether these are COCO's 5,000 held-out images, whole and with captions in the order of images."""
    return not why_not_coco_5k(scored)


def why_not_coco_5k(scored: Scored) -> list[str]:
    """Differences from COCO's `testall`, except for the order of images, which matters to folds alone."""
    images, captions = scored.images, len(scored.owner)
    reasons = []
    if scored.data not in COCO_NAMES:
        names = ", ".join(COCO_NAMES)
        reasons.append(
            f"the data set is called {scored.data!r} and not {names} (arrays of it: make import … ARGS=name=coco)"
        )
    if scored.split != "testall":
        reasons.append(f"the split is {scored.split!r}")
    if images != COCO_TESTALL_IMAGES:
        reasons.append(f"{images:,} images and not {COCO_TESTALL_IMAGES:,}")
    if captions not in COCO_TESTALL_CAPTIONS:
        reasons.append(f"{captions:,} captions and not {' or '.join(f'{count:,}' for count in COCO_TESTALL_CAPTIONS)}")
    if not _in_order(scored.owner):
        reasons.append("captions do not stand image by image")
    if images == COCO_TESTALL_IMAGES and _image_order(scored) == "other images":
        reasons.append("its photos are of COCO 2014, by their names, but not those that dataset_coco.json holds out")
    return reasons


def _image_order(scored: Scored) -> str:
    """`image_order`; `unknown` without ids, as for published arrays."""
    return "unknown" if scored.image_ids is None else image_order(scored.image_ids)


def _is_flickr30k_1k(scored: Scored) -> bool:
    counted = (scored.images, len(scored.owner)) == FLICKR30K_TEST
    return scored.data in FLICKR30K_NAMES and scored.split == "test" and counted and _in_order(scored.owner)


def _in_order(owner: Tensor | np.ndarray) -> bool:
    """Whether captions are in the order of images, as in the source."""
    return bool((torch.as_tensor(owner).diff() >= 0).all())
