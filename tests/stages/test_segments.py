"""Segment tokens against a loop over photos and classes, and the places that explanations give them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from threeshnet.encoders.segments import BANDS, SegmentTokens, all_classes, without_absent
from threeshnet.explanations.places import boxes_of_classes, tokens_of
from threeshnet.pooling.generalized import GeneralizedPooling
from threeshnet.pooling.maximum import MaximumPooling
from threeshnet.pooling.mean import MeanPooling
from threeshnet.records import MAP_SIDE, ImageBatch, TokenSet

from .test_encoders import CLASSES, DIM, image_batch
from .test_explanations import model_of

EMPTY = TokenSet(torch.empty(0), torch.empty(0))


def maps(*photos: dict[tuple[int, int, int, int], int]) -> Tensor:
    """Maps [B, 64, 64] of boxes (top, bottom, left, right) of one class each, in void."""
    seg_map = torch.full((len(photos), MAP_SIDE, MAP_SIDE), 255, dtype=torch.uint8)
    for photo, boxes in zip(seg_map, photos, strict=True):
        for (top, bottom, left, right), number in boxes.items():
            photo[top:bottom, left:right] = number
    return seg_map


def images_of(seg_map: Tensor) -> ImageBatch:
    return ImageBatch(None, None, None, seg_map, None)


def plain_places(photo: Tensor, number: int) -> list[float]:
    """Shares of a class in each column and row, and the root of its area, cell by cell."""
    cells = [(y, x) for y in range(MAP_SIDE) for x in range(MAP_SIDE) if photo[y, x] == number]
    stripe = MAP_SIDE // BANDS
    columns = [sum(x // stripe == band for _, x in cells) / len(cells) for band in range(BANDS)]
    rows = [sum(y // stripe == band for y, _ in cells) / len(cells) for band in range(BANDS)]
    return [*columns, *rows, (len(cells) / MAP_SIDE**2) ** 0.5]


def test_places_are_those_of_a_loop() -> None:
    torch.manual_seed(0)
    seg_map = torch.randint(0, CLASSES + 1, (3, MAP_SIDE, MAP_SIDE), dtype=torch.uint8)
    seg_map[0][seg_map[0] == 1] = 255
    seg_map[1] = 2
    found = without_absent(all_classes(seg_map, CLASSES))
    for photo, numbers, mask, places in zip(seg_map, *found, strict=True):
        there = [number for number in range(CLASSES) if (photo == number).any()]
        assert numbers[mask].tolist() == there
        torch.testing.assert_close(places[mask], torch.tensor([plain_places(photo, number) for number in there]))
    assert found.mask.sum(dim=1).tolist() == [CLASSES - 1, 1, CLASSES]


def test_a_token_depends_on_its_own_photo_and_on_where_its_class_is() -> None:
    torch.manual_seed(0)
    part = SegmentTokens(classes=CLASSES, dim=DIM)
    left, right, both = maps({(0, 9, 0, 9): 1}, {(0, 9, 50, 59): 1}, {(0, 9, 0, 9): 1, (20, 40, 20, 40): 3})
    together = part(EMPTY, EMPTY, images_of(torch.stack([left, right, both])))
    assert together.mask.sum(dim=1).tolist() == [1, 1, 2]
    torch.testing.assert_close(together.values[0, 0], together.values[2, 0])  # the same class at the same place
    assert not torch.allclose(together.values[0, 0], together.values[1, 0])
    alone = part(EMPTY, EMPTY, images_of(left.unsqueeze(0)))
    torch.testing.assert_close(alone.values[0], together.values[0, :1])
    assert (together.values[0, 1] == 0).all()


@pytest.mark.parametrize("pooling", [GeneralizedPooling, MaximumPooling, MeanPooling])
def test_void_alone_is_an_embedding_of_zeros(pooling: type[nn.Module]) -> None:
    tokens = SegmentTokens(classes=CLASSES, dim=DIM)(EMPTY, EMPTY, images_of(maps({}, {})))
    assert not tokens.mask.any()
    assert torch.equal(pooling()(tokens), torch.zeros(2, DIM))


def test_an_explanation_names_segments_by_class_and_box() -> None:
    images = image_batch([3])._replace(seg_map=maps({(0, 32, 0, 16): 1, (32, 64, 0, 64): CLASSES, (0, 32, 16, 64): 2}))
    boxes = {1: (0.0, 0.0, 0.25, 0.5), 2: (0.25, 0.0, 1.0, 0.5)}
    assert boxes_of_classes(images, CLASSES) == boxes
    model = copy.deepcopy(model_of("region"))
    model.image_encoder.parts["segments"] = SegmentTokens(classes=CLASSES, dim=DIM).double()
    tokens = tokens_of(model, images)
    segments = {place.number: place.box for place in tokens.places if place.kind == "segment"}
    assert segments == boxes
    (branch,) = tokens.branches
    named = [tokens.places[place].kind for place in branch.places.tolist()]
    of_segments = [kind for kind, part in zip(named, branch.parts, strict=True) if part == "segments"]
    assert of_segments == ["segment", "segment"]
