"""Panoptic segmentation: our merge against a slow twin, and the tables of classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from threeshnet.annotations.coco_classes import COCO_PANOPTIC, COCO_STUFF, aligned, plain
from threeshnet.annotations.coco_segmentation import PANOPTIC, numbered
from threeshnet.errors import DataError
from threeshnet.features.panoptic import (
    class_names,
    real_share,
)
from threeshnet.features.panoptic_merge import (
    Candidates,
    Panoptic,
    candidates,
    mask_probabilities,
    merged_segments,
    query_shares,
)
from threeshnet.features.segmentation import WORK_SIDE
from threeshnet.records import VOID
from threeshnet.shards.manifest import class_table_hash

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "coco_mini" / "panoptic_sample"


def slow_merge(scores: list[float], labels: list[int], masks: np.ndarray, overlap: float, stuff: set[int]) -> Any:
    """The definition, pixel by pixel: ids, classes and (id, class, pixels) of the segments."""
    count, height, width = masks.shape
    owner = np.full((height, width), -1)
    for row, column in np.ndindex(height, width):
        values = [np.float32(scores[k]) * masks[k, row, column] for k in range(count)]
        best = values.index(max(values)) if values else -1
        if values and masks[best, row, column] >= 0.5:
            owner[row, column] = best
    ids, classes = np.zeros((height, width), int), np.full((height, width), VOID)
    segments: list[list[int]] = []
    for k in range(count):
        whole, given = int((masks[k] >= 0.5).sum()), int((owner == k).sum())
        if not given or given / whole < overlap:
            continue
        same = [segment for segment in segments if segment[1] == labels[k]]
        if labels[k] in stuff and same:
            same[0][2] += given
            number = same[0][0]
        else:
            number = len(segments) + 1
            segments.append([number, labels[k], given])
        ids[owner == k], classes[owner == k] = number, labels[k]
    return ids, classes, segments


@settings(max_examples=150)
@given(st.data())
def test_the_merge_is_the_obvious_one(data: st.DataObject) -> None:
    count, side = data.draw(st.integers(0, 5)), data.draw(st.integers(1, 5))
    steps = st.integers(0, 8)  # eighths: ties occur, and sums are exact
    cells = data.draw(st.lists(steps, min_size=count * side * side, max_size=count * side * side))
    scores = [value / 8 for value in data.draw(st.lists(st.integers(1, 8), min_size=count, max_size=count))]
    labels = data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    stuff, overlap = data.draw(st.sets(st.integers(0, 2))), data.draw(st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    masks = np.array(cells, np.float32).reshape(count, side, side) / 8
    made = merge(scores, labels, torch.from_numpy(masks), overlap=overlap, stuff=stuff)
    ids, classes, segments = slow_merge(scores, labels, masks, overlap, stuff)
    np.testing.assert_array_equal(made.ids, ids)
    np.testing.assert_array_equal(made.classes, classes)
    assert [[s.id, s.label, round(s.share * side**2)] for s in made.segments] == segments


def merge(
    scores: list[float], labels: list[int], masks: Tensor, overlap: float = 0.0, stuff: Sequence[int] | set[int] = ()
) -> Panoptic:
    found = Candidates(torch.tensor(scores), torch.tensor(labels, dtype=torch.int64), masks)
    return merged_segments(found, overlap_threshold=overlap, stuff=stuff)


def test_stuff_is_one_segment_and_no_id_is_used_twice() -> None:
    masks = torch.eye(4)[:, None, :]  # a column each
    made = merge([0.9, 0.8, 0.95, 0.7], [7, 3, 7, 3], masks, stuff={7})
    assert made.ids.tolist() == [[1, 2, 1, 3]]  # the library's merge gives the last one id 2 again
    assert [(s.id, s.label, round(s.score, 6), s.share) for s in made.segments] == [
        (1, 7, 0.95, 0.5),
        (2, 3, 0.8, 0.25),
        (3, 3, 0.7, 0.25),
    ]
    assert made.classes.tolist() == [[7, 3, 7, 3]]


def test_a_mostly_hidden_query_leaves_a_hole() -> None:
    masks = torch.tensor([[[1.0, 1, 1, 0]], [[0.0, 0.9, 0.9, 0.9]]])
    made = merge([0.9, 0.9], [0, 1], masks, overlap=0.5)  # of the second a third is to be seen
    assert made.classes.tolist() == [[0, 0, 0, VOID]]
    assert merge([0.9, 0.9], [0, 1], masks, overlap=0.3).classes.tolist() == [[0, 0, 0, 1]]


def test_candidates_are_sure_and_real() -> None:
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.4, 0.1], [0.05, 0.05, 0.9], [0.1, 0.85, 0.05]])
    found = candidates(probabilities, torch.arange(4.0)[:, None, None], score_threshold=0.8)
    assert found.labels.tolist() == [0, 1]
    assert found.masks.flatten().tolist() == [0, 3]


def test_query_shares_are_the_obvious_ones() -> None:
    torch.manual_seed(0)
    probabilities, masks = (torch.randn(4, 4) * 2).softmax(1), torch.rand(4, 6, 6)
    expected = np.zeros((3, 3, 3))
    for row, column in np.ndindex(6, 6):
        pixel = [sum(float(probabilities[q, c] * masks[q, row, column]) for q in range(4)) for c in range(3)]
        expected[:, row // 2, column // 2] += np.array(pixel) / max(1, sum(pixel)) / 4
    found = query_shares(probabilities, masks, side=3)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found.sum(dim=0) <= 1 + 1e-6).all()
    assert (found.sum(dim=0) > 0.99).any(), "no pixel with more than one was among them"


def test_padding_takes_no_part() -> None:
    torch.manual_seed(0)
    photo = torch.randn(2, 6, 8)
    padded = torch.full((2, 8, 8), 1e4)
    padded[:, :6] = photo
    found = mask_probabilities(padded, (6 / 8, 1.0), side=14)
    torch.testing.assert_close(found, mask_probabilities(photo, (1.0, 1.0), side=14))
    assert found.max() < 1
    # a width of 89 px, which the network pads to 23 cells of 4 px: the last cell's centre is a pixel of padding
    assert real_share(torch.zeros(3, 64, 89), torch.zeros(1, 16, 23), (64, 89)) == (1.0, 89 / 92)


# --- class tables


def test_the_table_of_models_is_that_of_the_ground_truth(tmp_path: Path) -> None:
    ids = list(range(1, 266, 2))  # only their order counts
    categories = [{"id": number, "name": name} for number, name in zip(ids, COCO_PANOPTIC, strict=True)]
    truth, _ = numbered(tmp_path, {"categories": categories[::-1], "annotations": [], "images": []}, PANOPTIC)
    short = [name.replace("-other", "").replace("-merged", "").replace("-stuff", "") for name in COCO_PANOPTIC]
    for spelling in (COCO_PANOPTIC, COCO_PANOPTIC[::-1], short, [name.title() for name in COCO_PANOPTIC]):
        table, places = aligned(spelling)
        assert class_table_hash(table, 133) == class_table_hash(truth, 133)
        assert [plain(table[place]) for place in places] == [plain(name) for name in spelling]
    other = [*COCO_PANOPTIC[:-1], "carpet"]
    assert aligned(other) == (tuple(other), tuple(range(133)))


@pytest.mark.skipif(not SHARED.is_dir(), reason="COCO's own list is not beside the checkout")
def test_the_table_is_cocos() -> None:
    categories = json.loads((SHARED / "panoptic_coco_categories.json").read_text())
    assert numbered(SHARED, {"categories": categories, "annotations": [], "images": []}, PANOPTIC)[0] == COCO_PANOPTIC
    assert tuple(entry["name"] for entry in categories if not entry["isthing"]) == COCO_STUFF


def test_classes_without_a_name_are_those_of_their_weights_alone() -> None:
    config: Any = SimpleNamespace(num_labels=2, id2label={0: "LABEL_0", 1: "cat"})
    assert class_names(config, "abcdef0123456789") == ["LABEL_0 of abcdef012345", "cat"]
    config.num_labels = 300
    with pytest.raises(DataError, match=r"300 classes.*255 at most"):
        class_names(config, "")


def test_the_merge_is_finer_than_the_cells() -> None:
    assert WORK_SIDE % 64 == 0
    assert WORK_SIDE % 7 == 0
