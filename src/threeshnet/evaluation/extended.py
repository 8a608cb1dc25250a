"""What `extended=true` adds to metrics.json: numbers beyond recall, and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from threeshnet.errors import ConfigError, DataError
from threeshnet.metrics.coco_judgements import judged, load_judgements
from threeshnet.metrics.extended import Bank, beyond_recall
from threeshnet.metrics.groups import Groups, by_class, by_label, by_length, by_size, of_captions, typical_size
from threeshnet.metrics.intervals import bootstrap_recalls
from threeshnet.metrics.protocols import Scored, folds_of, is_coco_5k
from threeshnet.metrics.ranks import Ranks, rank_similarity
from threeshnet.metrics.similarity import EmbeddingSimilarity, MeanSimilarity
from threeshnet.shards.reader import ShardedSplit

IMAGES_AT_ONCE = 500
FEWEST = 10  # images of a class that is reported: of fewer, one photo is more than ten points of recall


def extended_metrics(
    protocol: str,
    similarities: Sequence[EmbeddingSimilarity],
    split: ShardedSplit,
    scored: Scored,
    ranks: Ranks,
    bank: Bank | None,
) -> dict[str, Any]:
    """`extended`, of the whole split in every protocol, and `intervals` of the protocol's recalls."""
    similarity = similarities[0] if len(similarities) == 1 else MeanSimilarity(similarities)
    whole = ranks if folds_of(protocol) == 1 else rank_similarity(similarity, split.owners)
    image_groups, caption_groups = groups_of(split)
    numbers = beyond_recall(
        similarity, whole, split.owners, image_groups=image_groups, caption_groups=caption_groups, bank=bank
    )
    if is_coco_5k(scored):
        numbers["judgements"] = coco_judgements(similarity, split)
    return {"extended": numbers, "intervals": bootstrap_recalls(ranks, split.owners, folds=folds_of(protocol))}


def coco_judgements(similarity: Any, split: ShardedSplit) -> dict[str, Any]:
    """ECCV Caption and CxC, or the reason why they were not computed: they are an optional extra."""
    try:
        return judged(similarity, split.owners, split.image_ids, load_judgements())
    except (ConfigError, DataError) as reason:  # no package; or other ids, or fewer captions, than its tables have
        return {"not_run": str(reason)}


def groups_of(split: ShardedSplit) -> tuple[dict[str, Groups], dict[str, Groups]]:
    """Groups of the images and of the captions, as far as the shards name them."""
    of_images: dict[str, Groups] = {}
    if "seg" in split.manifest.fields:
        categories, sizes = _segmentation(split)
        names = split.manifest.class_names or [f"class {number}" for number in range(categories.shape[1])]
        of_images = {"class": by_class(categories, names, least=FEWEST), "object_size": by_size(sizes)}
    captions: dict[str, Groups] = {"length": by_length(split.caption_texts)}
    captions |= {kind: of_captions(groups, split.owners) for kind, groups in of_images.items()}
    if any(split.caption_tags):
        captions["tag"] = by_label(split.caption_tags)
    return of_images, captions


def _segmentation(split: ShardedSplit) -> tuple[Tensor, Tensor]:
    """Classes in each image [G, C] and their typical size [G]."""
    categories, sizes = [], []
    for numbers in np.array_split(np.arange(split.images), -(-split.images // IMAGES_AT_ONCE)):
        arrays = split.read(numbers, ["seg"])
        assert arrays.seg_categories is not None
        assert arrays.seg_map is not None
        categories.append(torch.from_numpy(arrays.seg_categories))
        sizes.append(typical_size(arrays.seg_map))
    return torch.cat(categories), torch.cat(sizes)
