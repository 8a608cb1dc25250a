"""Scores of a model on a split, as they stand in metrics.json."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from threeshnet.evaluation.extended import extended_metrics
from threeshnet.metrics.corrections import corrected
from threeshnet.metrics.extended import Bank
from threeshnet.metrics.groups import by_label, recall_by_group
from threeshnet.metrics.protocols import Scored, describe, folds_of, rank, recall_by, warning
from threeshnet.metrics.rank_files import RankedItems
from threeshnet.metrics.ranks import Ranks, rank_similarity
from threeshnet.metrics.similarity import EmbeddingSimilarity
from threeshnet.metrics.twins import pair_accuracy, told_apart, twins
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.encoding import Embeddings

KIB, GIB = 2**10, 2**30  # bytes
OF_TRAINING = ("seed", "experiment", "features", "guidance", "parts", "batch_size", "precision")
OF_TRAINING += ("commit", "fingerprint")


class Scores(NamedTuple):
    metrics: dict[str, Any]  # as they stand in metrics.json
    ranked: RankedItems  # the ranks that these recalls are of


def scores_of(
    protocol: str,
    embeddings: Sequence[Embeddings],
    split: ShardedSplit,
    *,
    trained_on: str | None = None,
    train_splits: Sequence[str] = (),
    extended: bool = False,
    bank: Embeddings | None = None,
    correction: str | None = None,
) -> Scores:
    """Recalls and ranks of one model (or of several, for `ensemble`) on a split.

    Where captions carry tags, `by_tag` holds the t2i recalls of each tag, and how often twin photos are distinguished.
    `extended` adds numbers beyond recall and intervals; `bank` holds training embeddings for them. With `correction`
    the similarities are corrected by the bank first, and there is no `by_tag`.
    """
    similarities = [EmbeddingSimilarity(*sides) for sides in embeddings]
    scored = scored_of(split, trained_on, train_splits)
    reference = None if bank is None else Bank(*bank)
    if correction:
        assert reference is not None, "a correction needs a bank"  # `check_request` says so to people
        by_images, by_captions = corrected(correction, similarities[0], *reference)
        ranks = Ranks(rank(protocol, [by_captions], scored).i2t, rank(protocol, [by_images], scored).t2i)
    else:
        ranks = rank(protocol, similarities, scored)
    recalls: dict[str, Any] = dict(recall_by(protocol, ranks, scored))
    facts = {
        "protocol": protocol,
        "described": describe(protocol, scored) + (f", corrected by {correction}" if correction else ""),
        "data": split.manifest.dataset,
        "split": split.name,
        "images": split.images,
        "captions": split.captions,
    }
    if warned := warning(scored):
        facts["warning"] = warned
    if any(split.caption_tags) and len(similarities) == 1 and not correction:
        whole = ranks if folds_of(protocol) == 1 else rank_similarity(similarities[0], split.owners)
        facts["by_tag"] = recall_by_group(whole.t2i, by_label(split.caption_tags))
        answers = told_apart(similarities[0], split.owners, twins(split.image_ids))
        for tag, percent in pair_accuracy(answers, split.caption_tags).items():
            facts["by_tag"][tag]["pair_accuracy"] = percent
    if extended:
        facts |= extended_metrics(protocol, similarities, split, scored, ranks, reference)
    return Scores(recalls | facts, RankedItems(ranks, torch.as_tensor(split.owners), list(split.image_ids)))


def scored_of(split: ShardedSplit, trained_on: str | None, train_splits: Sequence[str] = ()) -> Scored:
    """The split as protocols take it, for models that were trained on `train_splits` of `trained_on`."""
    return Scored(
        split.manifest.dataset, split.name, split.images, split.owners, trained_on, split.image_ids, train_splits
    )


def facts_of_run(training: Mapping[str, Any], trainer: pl.Trainer) -> dict[str, Any]:
    """What stands in metrics.json of a training beside its recalls; `training` are its facts (`training_facts`)."""
    on_gpu = {"peak_gpu_memory_gb": round(torch.cuda.max_memory_allocated() / GIB, 2)}
    return (on_gpu if torch.cuda.is_available() else {}) | {
        **{name: training[name] for name in OF_TRAINING},
        "parameters": sum(parameter.numel() for parameter in trainer.lightning_module.parameters()),
        "devices": trainer.world_size,
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / GIB, 2),
        "trained": [dict(training)],
    }
