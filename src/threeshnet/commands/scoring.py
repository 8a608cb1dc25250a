"""Scores of a model on a split, as they stand in metrics.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from threeshnet.metrics.protocols import Scored, describe, score
from threeshnet.metrics.ranks import rank_similarity
from threeshnet.metrics.recalls import recall_by_tag
from threeshnet.metrics.similarity import EmbeddingSimilarity
from threeshnet.metrics.twins import pair_accuracy, told_apart, twins
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.collect import Embeddings


def metrics_of(protocol: str, embeddings: Sequence[Embeddings], split: ShardedSplit) -> dict[str, Any]:
    """Recalls of one model (or of several, for `ensemble`) on a split, with what was scored beside them.

    Where captions carry tags, `by_tag` holds the t2i recalls of each, and how often twin photos are told apart.
    """
    similarities = [EmbeddingSimilarity(*sides) for sides in embeddings]
    scored = Scored(split.manifest.dataset, split.name, split.images, split.owners)
    found: dict[str, Any] = dict(score(protocol, similarities, scored))
    facts = {
        "protocol": protocol,
        "described": describe(protocol, scored),
        "data": split.manifest.dataset,
        "split": split.name,
        "images": split.images,
        "captions": split.captions,
    }
    if any(split.caption_tags) and len(similarities) == 1:
        facts["by_tag"] = recall_by_tag(rank_similarity(similarities[0], split.owners).t2i, split.caption_tags)
        answers = told_apart(similarities[0], split.owners, twins(split.image_ids))
        for tag, percent in pair_accuracy(answers, split.caption_tags).items():
            facts["by_tag"][tag]["pair_accuracy"] = percent
    return found | facts
