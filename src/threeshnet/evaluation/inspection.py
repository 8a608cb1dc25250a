"""What a trained model does with a held-out split, as plain numbers for the dashboard and W&B's tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from threeshnet.batches.collate import collate_images
from threeshnet.encoders.image import ImageEncoder
from threeshnet.encoders.model import RetrievalModel
from threeshnet.metrics.confusions import Confusion, hardest_confusions, nearest_captions
from threeshnet.metrics.ranks import rank_similarity
from threeshnet.metrics.similarity import EmbeddingSimilarity
from threeshnet.pooling.generalized import GeneralizedPooling
from threeshnet.records import TokenSet
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.encoding import Embeddings

TOP_CAPTIONS = 5
CONFUSIONS = 20  # of each direction
SAMPLED = 128  # images and captions whose set sizes and weights are shown
BINS = 40  # of the histogram of VSeM's weights


def inspection(
    model: RetrievalModel,
    split: ShardedSplit,
    embeddings: Embeddings,
    *,
    fields: Sequence[str],
    pictures: Mapping[int, str],
) -> dict[str, Any]:
    """Retrievals of the images that have a picture, hardest confusions, GPO's weights and VSeM's, ready for JSON.

    `pictures` are files by the number of the image, relative to the run directory. The model is in evaluation mode.
    """
    similarity = EmbeddingSimilarity(*embeddings)
    return {
        "split": split.name,
        "images": split.images,
        "captions": split.captions,
        "retrievals": retrievals(split, similarity, pictures),
        "confusions": confusions(split, similarity),
        **weights(model, split, fields),
    }


def retrievals(
    split: ShardedSplit, similarity: EmbeddingSimilarity, pictures: Mapping[int, str]
) -> list[dict[str, Any]]:
    """For some images: the rank, the own captions with their ranks, and the captions ranked first."""
    ranks = rank_similarity(similarity, split.owners)
    nearest = nearest_captions(similarity, list(pictures), count=TOP_CAPTIONS)
    rows = []
    for (number, picture), top in zip(pictures.items(), nearest, strict=True):
        own = np.flatnonzero(split.owners == number).tolist()
        rows.append(
            {
                "image": split.image_ids[number],
                "number": number,
                "picture": picture,
                "i2t_rank": int(ranks.i2t[number]),
                "own": [{"caption": split.caption_texts[row], "t2i_rank": int(ranks.t2i[row])} for row in own],
                "top": [
                    {
                        "caption": split.caption_texts[row],
                        "similarity": round(value, 4),
                        "right": int(split.owners[row]) == number,
                    }
                    for row, value in top
                ],
            }
        )
    return rows


def confusions(split: ShardedSplit, similarity: EmbeddingSimilarity) -> dict[str, list[dict[str, Any]]]:
    """The hardest confusions of both directions; `wrong_caption` of t2i is the first caption of the wrong image."""
    first = {int(owner): row for row, owner in reversed(list(enumerate(split.owners)))}

    def named(confusion: Confusion, direction: str) -> dict[str, Any]:
        caption = confusion.wrong if direction == "i2t" else first[confusion.wrong]
        return {
            "image": split.image_ids[confusion.image],
            "caption": split.caption_texts[confusion.caption],
            "wrong_image": split.image_ids[int(split.owners[caption])],
            "wrong_caption": split.caption_texts[caption],
            "gap": round(confusion.gap, 4),
        }

    hardest = hardest_confusions(similarity, split.owners, count=CONFUSIONS)
    return {direction: [named(confusion, direction) for confusion in rows] for direction, rows in hardest.items()}


@torch.inference_mode()
def weights(model: RetrievalModel, split: ShardedSplit, fields: Sequence[str]) -> dict[str, Any]:
    """`pooling`: GPO's weights by the size of the set (smallest, median, largest seen), of each pooling by its name;
    `semantic`: the histogram of VSeM's weights of real tokens, of each branch by what its tokens are.
    """
    numbers = np.unique(np.linspace(0, split.images - 1, num=min(SAMPLED, split.images), dtype=int))
    images = collate_images(split.read(numbers, fields)).to(model.device)
    rows = np.flatnonzero(np.isin(split.owners, numbers))
    poolings = {name: module for name, module in model.named_modules() if isinstance(module, GeneralizedPooling)}
    with _set_sizes(poolings) as seen:
        model.encode_images(images)
        model.encode_texts([split.caption_texts[int(row)] for row in rows[:SAMPLED]])
    pooling = {name: _by_size(module, seen[name]) for name, module in poolings.items() if seen[name]}
    semantic = {}
    for branch in (module for module in model.modules() if isinstance(module, ImageEncoder)):
        if (attention := branch.highlights(images).get("semantic")) is not None:
            semantic[branch.source] = _histogram(attention[branch.features(images).mask])
    return {"pooling": pooling, "semantic": semantic}


@contextmanager
def _set_sizes(poolings: Mapping[str, GeneralizedPooling]) -> Iterator[dict[str, list[int]]]:
    """Collects the sizes of the sets that each pooling gets."""
    seen: dict[str, list[int]] = {name: [] for name in poolings}

    def note(name: str, _: Any, given: tuple[TokenSet]) -> None:
        seen[name].extend(given[0].lengths.tolist())

    hooks = [module.register_forward_pre_hook(partial(note, name)) for name, module in poolings.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _by_size(pooling: GeneralizedPooling, sizes: Sequence[int]) -> dict[str, list[float]]:
    chosen = sorted({int(np.quantile(sizes, share, method="nearest")) for share in (0.0, 0.5, 1.0)} - {0})
    lengths = torch.tensor(chosen, device=pooling.score.weight.device)
    weights = pooling.weights(lengths, max(chosen)).float().cpu()
    pairs = zip(chosen, weights.tolist(), strict=True)
    return {str(size): [round(value, 5) for value in row[:size]] for size, row in pairs}


def _histogram(values: Tensor) -> dict[str, list[float]]:
    counts, edges = np.histogram(values.float().cpu().numpy(), BINS)
    return {"counts": counts.tolist(), "edges": [round(float(edge), 6) for edge in edges]}
