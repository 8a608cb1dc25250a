"""Twin photos of the demo world, which differ in one respect: a caption of one asks about that respect."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from threeshnet.metrics.similarity import EmbeddingSimilarity

TWIN_ENDINGS = {"-a": "-b", "-b": "-a"}  # of the ids of two twins


def twins(ids: Sequence[str]) -> np.ndarray:
    """Number of each image's twin, [images] int64; -1 without one.

    >>> twins(["test-0-what-a", "test-0-what-b", "test-1-single"]).tolist()
    [1, 0, -1]
    """
    numbers = {name: number for number, name in enumerate(ids)}
    return np.array([numbers.get(name[:-2] + TWIN_ENDINGS.get(name[-2:], "?"), -1) for name in ids], dtype=np.int64)


def told_apart(similarity: EmbeddingSimilarity, owner: np.ndarray, twin: np.ndarray) -> np.ndarray:
    """1 if a caption is nearer to its own photo than to the twin, else 0, NaN without a twin: [captions] float64.

    Chance level is 0.5. A tie counts as 0.
    """
    images, captions = similarity.image_embeddings, similarity.caption_embeddings
    other = twin[owner]
    with_twin = np.flatnonzero(other >= 0)
    true = _inner(images[owner[with_twin]], captions[with_twin])
    false = _inner(images[other[with_twin]], captions[with_twin])
    answers = np.full(len(owner), np.nan)
    answers[with_twin] = (true > false).numpy()
    return answers


def pair_accuracy(answers: np.ndarray, tags: Sequence[str]) -> dict[str, float]:
    """Mean of `told_apart` over the captions of each tag, in percent; tags without an answer are left out.

    >>> pair_accuracy(np.array([1.0, 0.0, np.nan]), ["what", "what", "plain"])
    {'what': 50.0}
    """
    labels = np.array(tags, dtype=object)
    by_tag = {tag: answers[(labels == tag) & ~np.isnan(answers)] for tag in sorted(set(tags)) if tag}
    return {tag: 100.0 * float(of_tag.mean()) for tag, of_tag in by_tag.items() if len(of_tag)}


def _inner(one: Tensor, other: Tensor) -> Tensor:
    return torch.einsum("qd,qd->q", one.double(), other.double())
