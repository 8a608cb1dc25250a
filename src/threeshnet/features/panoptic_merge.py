"""From class queries and mask queries to one panoptic segmentation and to class shares.

Sources: Cheng et al., Per-Pixel Classification is Not All You Need (NeurIPS 2021), section 3.4 on inference, and
Masked-attention Mask Transformer (CVPR 2022). Ours, because the library's merge gives two segments one id after a class
of stuff was met again, and lets padding take part.

Here K are the queries that are kept of the Q of a model.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from threeshnet.features.segmentation import WORK_SIDE
from threeshnet.records import SCENE_SIDE, VOID

MASK_THRESHOLD = 0.5  # a pixel is in a query's mask from this probability on: the papers'


class Candidates(NamedTuple):
    """Queries that may become a segment."""

    scores: Tensor  # [K] probability of the class
    labels: Tensor  # [K] int64, class
    masks: Tensor  # [K, S, S] probability of each pixel


class Segment(NamedTuple):
    """One thing, or all there is of one kind of stuff."""

    id: int  # from 1 on, in the order of the queries
    label: int
    score: float  # of its query with the highest probability
    share: float  # of the photo's area


class Panoptic(NamedTuple):
    """Every pixel in at most one segment."""

    ids: Tensor  # [S, S] int64, id of the segment, 0 where there is none
    classes: Tensor  # [S, S] uint8, its class, 255 where there is none
    segments: tuple[Segment, ...]


def merged_segments(candidates: Candidates, *, overlap_threshold: float, stuff: Collection[int] = ()) -> Panoptic:
    """Give each pixel to the query with the highest score times mask, and drop queries that are mostly hidden.

    A query's mask is where its own probability is 0.5 or more; of that, the share which it is given must reach
    `overlap_threshold`, or the query is dropped and its pixels stay empty. (The authors' code sets all pixels that the
    query is given against its mask, those outside of the mask too; the paper speaks of the part of the mask that is
    hidden, as is meant here.) Queries of a class in `stuff` share one segment; an id is never used for two.
    """
    side = candidates.masks.shape[1:]
    if not len(candidates.scores):
        empty = torch.zeros(side, dtype=torch.int64, device=candidates.masks.device)
        return Panoptic(empty, (empty + VOID).to(torch.uint8), ())
    winner = (candidates.scores[:, None, None] * candidates.masks).argmax(dim=0)
    inside = candidates.masks.gather(0, winner[None])[0] >= MASK_THRESHOLD
    visible = torch.bincount(winner[inside], minlength=len(candidates.scores))
    whole = (candidates.masks >= MASK_THRESHOLD).sum(dim=(1, 2))
    kept = (visible > 0) & (visible >= overlap_threshold * whole)
    ids, segments = numbered_segments(candidates, visible.where(kept, 0), winner.numel(), stuff)
    id_of = torch.tensor(ids, device=winner.device)  # of each query, 0 for those dropped
    class_of = candidates.labels.where(kept, VOID).to(torch.uint8)
    return Panoptic(id_of[winner].where(inside, 0), class_of[winner].where(inside, VOID), segments)


def numbered_segments(
    candidates: Candidates, areas: Tensor, pixels: int, stuff: Collection[int]
) -> tuple[list[int], tuple[Segment, ...]]:
    """The segment of each query (0 for one without area), and the segments; `areas` [K] counts pixels."""
    ids: list[int] = []
    segments: dict[int, Segment] = {}
    of_stuff: dict[int, int] = {}  # class -> id
    scores, labels = candidates.scores.tolist(), candidates.labels.tolist()
    for score, label, area in zip(scores, labels, areas.tolist(), strict=True):
        if not area:
            ids.append(0)
            continue
        number = of_stuff.get(label, len(segments) + 1)
        before = segments.get(number, Segment(number, label, 0.0, 0.0))
        segments[number] = before._replace(score=max(before.score, score), share=before.share + area / pixels)
        if label in stuff:
            of_stuff[label] = number
        ids.append(number)
    return ids, tuple(segments.values())


def candidates(probabilities: Tensor, masks: Tensor, *, score_threshold: float) -> Candidates:
    """The queries whose best class is a real one with at least `score_threshold`.

    probabilities: [Q, C+1], the last for "no object"; masks: [Q, S, S].
    """
    scores, labels = probabilities.max(dim=1)
    kept = (labels < probabilities.shape[1] - 1) & (scores >= score_threshold)
    return Candidates(scores[kept], labels[kept], masks[kept])


def query_shares(probabilities: Tensor, masks: Tensor, side: int = SCENE_SIDE) -> Tensor:
    """Class probabilities of side x side cells, [C, side, side], from all queries.

    probabilities: [Q, C+1], the last for "no object"; masks: [Q, S, S], S a multiple of side.
    At a pixel: p(c) = sum over queries of P(class c | query) P(pixel | query), as in the papers' semantic inference,
    divided by its sum over the classes where that is above one, as where two queries claim the same thing. So p sums
    to at most one, and what is missing is void, as in the shares of annotated masks. A cell is the mean of its pixels.
    """
    real = probabilities[:, :-1]
    total = torch.einsum("q,qhw->hw", real.sum(dim=1), masks)
    cells = functional.avg_pool2d(masks / total.clamp(min=1), masks.shape[-1] // side)
    return torch.einsum("qc,qhw->chw", real, cells)


def mask_probabilities(logits: Tensor, real: tuple[float, float], side: int = WORK_SIDE) -> Tensor:
    """Masks [Q, h, w] of logits to probabilities [Q, side, side] over the photo alone.

    `real` are the shares of height and width that the photo has, from the upper left corner; the rest is padding. A
    cell of the mask counts as the photo's when its centre lies in it.
    """
    height, width = (max(1, round(size * share)) for size, share in zip(logits.shape[1:], real, strict=True))
    photo = logits[None, :, :height, :width]
    return functional.interpolate(photo, size=(side, side), mode="bilinear", align_corners=False)[0].sigmoid()
