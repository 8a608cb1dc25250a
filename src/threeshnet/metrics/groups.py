"""Recalls by group of queries: caption length, class in the photo, object size, tag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from threeshnet.errors import DataError, Problems
from threeshnet.metrics.recalls import DirectionRecall, summarise
from threeshnet.records import VOID

LENGTHS = (8, 12, 16)  # words: where the second, third and last group begin
# COCO's limits of small and large objects, 32^2 and 96^2 pixels, as a share of its common photo of 640x480.
SIZES = {"small": 32**2 / (640 * 480), "medium": 96**2 / (640 * 480), "large": 1.0}
Groups = Mapping[str, Tensor]  # name -> [Q] bool, the queries in it; a query may be in several groups


def recall_by_group(ranks: Tensor, groups: Groups) -> dict[str, DirectionRecall]:
    """Recalls of each group of queries [Q], with its size as `queries`; empty groups are left out.

    Raises DataError for groups of another number of queries.

    >>> recalls = recall_by_group(torch.tensor([1, 9, 2]), {"a": torch.tensor([True, True, False])})
    >>> recalls["a"]["queries"], recalls["a"]["R@1"]
    (2.0, 50.0)
    """
    problems = Problems(f"groups of {len(ranks)} queries")
    problems.extend(f"{name}: {len(chosen)} queries" for name, chosen in groups.items() if len(chosen) != len(ranks))
    problems.raise_as(DataError)
    return {
        name: {"queries": float(chosen.sum())} | summarise(ranks[chosen.cpu()])
        for name, chosen in groups.items()
        if chosen.any()
    }


def by_length(captions: Sequence[str], limits: Sequence[int] = LENGTHS) -> dict[str, Tensor]:
    """Groups of captions by number of words.

    >>> [name for name, chosen in by_length(["a dog", "a dog on a very long red couch"]).items() if chosen.any()]
    ['1-7 words', '8-11 words']
    """
    words = torch.tensor([len(caption.split()) for caption in captions])
    edges = [1, *limits]
    groups = {f"{low}-{high - 1} words": (words >= low) & (words < high) for low, high in pairwise(edges)}
    return groups | {f"{edges[-1]}+ words": words >= edges[-1]}


def by_label(labels: Sequence[str]) -> dict[str, Tensor]:
    """Groups of queries by label (the demo's what, where, both, plain); an empty label is in no group.

    >>> by_label(["what", "", "what"])
    {'what': tensor([ True, False,  True])}
    """
    array = np.array(labels, dtype=object)
    return {label: torch.from_numpy(array == label) for label in sorted(set(labels)) if label}


def by_class(categories: Tensor | np.ndarray, names: Sequence[str], *, least: int = 1) -> dict[str, Tensor]:
    """Groups of images by class, from multi-hot [G, C]; classes in fewer than `least` images are left out.

    Raises DataError for another number of names.

    >>> by_class(torch.tensor([[1, 0], [1, 0]]), ["dog", "cat"])
    {'dog': tensor([True, True])}
    """
    present = torch.as_tensor(categories) > 0
    if present.shape[1] != len(names):
        raise DataError(f"{present.shape[1]} classes with {len(names)} names; one name a class")
    return {name: present[:, number] for number, name in enumerate(names) if int(present[:, number].sum()) >= least}


def by_size(share: Tensor | np.ndarray, limits: Mapping[str, float] = SIZES) -> dict[str, Tensor]:
    """Groups of images by object size, a share of the photo [G]; NaN is in no group.

    >>> by_size(torch.tensor([0.001, 0.5]))["large"]
    tensor([False,  True])
    """
    shares, below = torch.as_tensor(share), -torch.inf
    groups = {}
    for name, limit in limits.items():
        groups[name] = (shares > below) & (shares <= limit)
        below = limit
    return groups


def typical_size(seg_map: Tensor | np.ndarray) -> Tensor:
    """Median share of the photo that a class of its map [G, H, W] covers, [G] float64; NaN for a map of void.

    >>> typical_size(torch.tensor([[[3, 3], [3, 7]]]))  # 3/4 and 1/4; of an even number, the lower
    tensor([0.2500], dtype=torch.float64)
    """
    maps = torch.as_tensor(seg_map).flatten(1).long()
    sizes = []
    for row in maps:
        counts = torch.bincount(row, minlength=VOID + 1)
        counts[VOID] = 0
        here = counts[counts > 0].double()
        sizes.append(here.median() / row.numel() if len(here) else torch.tensor(torch.nan, dtype=torch.float64))
    return torch.stack(sizes)


def of_captions(groups: Groups, owner: Tensor | np.ndarray) -> dict[str, Tensor]:
    """Groups of images as groups of their captions; `owner` [captions] is the image of each caption."""
    owners = torch.as_tensor(owner).long()
    return {name: chosen[owners] for name, chosen in groups.items()}
