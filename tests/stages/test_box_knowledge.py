"""What tokens know of their boxes: areas by counting, boxes that go with their tokens, and nothing at the start."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from threeshnet.batches.collate import collate_images
from threeshnet.encoders.image import ImageEncoder, TokenProjection
from threeshnet.encoders.parts import LocalTokens
from threeshnet.errors import DataError
from threeshnet.fusion.box_knowledge import BoxGeometry
from threeshnet.metrics.perturbations import drop_regions
from threeshnet.pooling.mean import MeanPooling
from threeshnet.records import Batch, ImageArrays, ImageBatch, TokenSet
from threeshnet.shards.reader import cell_boxes
from threeshnet.training.synchronize import widen

WIDTH, DIM, CLASSES = 6, 8, 3


# ---- in the encoder


def encoder(boxes: Mapping[str, nn.Module] | None = None, source: str = "regions") -> ImageEncoder:
    torch.manual_seed(0)
    project = TokenProjection(width=WIDTH, dim=DIM)
    made = ImageEncoder(
        source=source, project=project, parts={"local": LocalTokens()}, pooling=MeanPooling(), boxes=boxes
    )
    return made.eval()


def boxes_read() -> dict[str, nn.Module]:
    return {"geometry": BoxGeometry(dim=DIM)}


def images() -> ImageBatch:
    draw = torch.Generator().manual_seed(1)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    tokens = TokenSet(torch.rand(2, 3, WIDTH, generator=draw), mask)
    boxes = torch.rand(2, 2, 3, 2, 2, generator=draw).sort(dim=3).values.flatten(3)
    semantic = torch.rand(2, CLASSES, 7, 7, generator=draw)
    return ImageBatch(tokens, tokens, semantic, None, None, boxes[0], boxes[1])


@pytest.mark.parametrize("source", ["regions", "grid"])
def test_training_starts_from_the_model_without_boxes(source: str) -> None:
    torch.testing.assert_close(encoder(boxes_read(), source)(images()), encoder(source=source)(images()))


def test_afterwards_boxes_tell_and_padding_does_not() -> None:
    knowing = encoder(boxes_read())
    open_up(knowing)
    batch = images()
    expected = knowing(batch)
    moved = batch.region_boxes.clone()
    moved[1, 1:] = 0.3  # under padding
    torch.testing.assert_close(knowing(batch._replace(region_boxes=moved)), expected)
    moved[1, 0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    changed = (knowing(batch._replace(region_boxes=moved)) - expected).abs().sum(dim=1) > 1e-4
    assert changed.tolist() == [False, True]
    # regions read their own boxes, not those of the cells
    torch.testing.assert_close(knowing(batch._replace(grid_boxes=moved)), expected)


def test_a_sum_of_boxes_does_not_tell_two_tokens_that_change_places() -> None:
    knowing = encoder(boxes_read())
    open_up(knowing)
    batch = images()
    changed = batch._replace(region_boxes=batch.region_boxes[:, [1, 0, 2]])
    assert (knowing(changed) - knowing(batch))[0].abs().max() < 1e-4


def open_up(encoder: ImageEncoder) -> None:
    """Codes start at 0: as if they had been trained."""
    for module in encoder.boxes.values():
        assert isinstance(module, BoxGeometry)
        nn.init.normal_(module.code.leave.weight)


def test_a_batch_without_boxes_is_refused_by_the_model_that_reads_them() -> None:
    batch = ImageBatch(*images()[:5])  # as it was promised: five fields
    assert (batch.region_boxes, batch.grid_boxes) == (None, None)
    assert encoder()(batch).shape == (2, DIM)
    with pytest.raises(DataError, match=r"reads the boxes of its regions.*boxes=\[\]"):
        encoder(boxes_read())(batch)


# ---- on the way there


def arrays(count: int = 3) -> ImageArrays:
    """Regions whose first number is the left edge of their box, and cells likewise."""
    draw = np.random.default_rng(0)
    boxes = [np.sort(draw.random((2 + n, 2, 2)), axis=1).reshape(-1, 4).astype(np.float32) for n in range(count)]
    regions = [np.concatenate([box[:, :1], np.zeros((len(box), 3), np.float32)], axis=1) for box in boxes]
    cells = np.broadcast_to(cell_boxes(2, 3), (count, 6, 4))
    return ImageArrays(regions=regions, boxes=boxes, grid=cells[:, :, :2].copy(), grid_boxes=cells)


@given(seed=st.integers(0, 20))
def test_boxes_go_with_the_tokens_that_stay(seed: int) -> None:
    draw = np.random.default_rng(seed)

    def keep(_: int, count: int) -> np.ndarray:
        return np.sort(draw.permutation(count)[: 1 + draw.integers(count)])

    batch = collate_images(arrays(), np.array([2, 0, 1, 2]), keep=keep)
    check_together(batch)
    check_together(drop_regions(batch, torch.Generator().manual_seed(seed)))
    wide = widen(
        Batch(batch, TokenSet(torch.zeros(4, 1).long(), torch.ones(4, 1).bool()), *[torch.arange(4)] * 2), [9, 8, 1]
    )
    check_together(wide.images)


def check_together(batch: ImageBatch) -> None:
    for tokens, boxes in ((batch.regions, batch.region_boxes), (batch.grid, batch.grid_boxes)):
        assert boxes.shape == (*tokens.mask.shape, 4)
        assert torch.equal(boxes[..., 0], tokens.values[..., 0])
        assert not boxes[~tokens.mask].any()


def test_the_random_numbers_of_a_batch_do_not_depend_on_boxes() -> None:
    asked: list[int] = []

    def keep(place: int, count: int) -> np.ndarray:
        asked.append(place)
        return np.arange(count)

    collate_images(arrays(), keep=keep)
    with_boxes, asked[:] = list(asked), []
    collate_images(arrays()._replace(boxes=None, grid_boxes=None), keep=keep)
    assert asked == with_boxes == [0, 1, 2, 0, 1, 2]
