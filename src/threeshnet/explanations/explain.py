"""Explain why a photo matches a sentence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from threeshnet.encoders.hybrid import is_kernel
from threeshnet.encoders.model import RetrievalModel
from threeshnet.explanations.contributions import EXACT, by_place, deletion_test, effects, ranked, shares
from threeshnet.explanations.explanation import Contribution, Explanation, Guidance
from threeshnet.explanations.places import PHOTO, Branch, TokensOfPhoto, tokens_of
from threeshnet.records import ImageBatch


@torch.no_grad()
def explain(model: RetrievalModel, images: ImageBatch, sentence: str, class_names: Sequence[str] = ()) -> Explanation:
    """The explanation of a batch of one photo and a sentence; `class_names` are those of the segmentation.

    The model is in evaluation mode. Raises ValueError for another number of photos.
    """
    tokens = tokens_of(model, images)
    text = model.encode_texts([sentence])[0]
    score, lost = effects(tokens, text)
    order = ranked(tokens, lost)
    contributions = _contributions(tokens, text, lost, score)
    seg_map = None if images.seg_map is None else images.seg_map[0].cpu().numpy().astype(np.uint8)
    classes = 0 if seg_map is None else int(seg_map.max()) + 1
    return Explanation(
        sentence=sentence,
        score=score,
        contributions=[contributions[place] for place in order],
        photo=next((contributions[place] for place in tokens.pooled if tokens.places[place].kind == PHOTO), None),
        test=deletion_test(tokens, text, order),
        guidance={branch.source: _guidance(tokens, branch) for branch in tokens.branches if not is_kernel(branch)},
        seg_map=seg_map,
        class_names=list(class_names) or [f"class {number}" for number in range(classes)],
    )


def _contributions(tokens: TokensOfPhoto, text: Tensor, lost: Tensor, score: float) -> list[Contribution]:
    """Of every place, in the order of the places."""
    of_tokens = shares(tokens, text)
    whole = by_place(tokens, of_tokens).tolist()
    exact = abs(sum(whole) - score) < EXACT
    parts = {name: by_place(tokens, of_tokens, name).tolist() for name in dict.fromkeys(_parts(tokens))}
    weight: dict[int, float] = {}
    attention: dict[int, np.ndarray] = {}
    for branch in tokens.branches:
        places = branch.own_places.tolist()
        if branch.semantic is not None:
            weight |= dict(zip(places, branch.semantic.tolist(), strict=True))
        if branch.spatial is not None:
            attention |= dict(zip(places, branch.spatial.float().cpu().numpy(), strict=True))
    return [
        Contribution(
            place=place,
            effect=float(lost[number]),
            share=whole[number] if exact else None,
            shares={name: of_part[number] for name, of_part in parts.items() if exact and of_part[number]},
            weight=weight.get(number),
            attention=attention.get(number),
        )
        for number, place in enumerate(tokens.places)
    ]


def _parts(tokens: TokensOfPhoto) -> list[str]:
    return [name for branch in tokens.branches for name in branch.parts]


def _guidance(tokens: TokensOfPhoto, branch: Branch) -> Guidance:
    boxes = [tokens.places[place].box for place in branch.own_places.tolist()]
    present = [box for box in boxes if box is not None]
    return Guidance(
        boxes=np.array(present, np.float32) if present and len(present) == len(boxes) else None,
        weights=None if branch.semantic is None else branch.semantic.float().cpu().numpy(),
        attention=None if branch.spatial is None else branch.spatial.float().mean(dim=0).cpu().numpy(),
    )
