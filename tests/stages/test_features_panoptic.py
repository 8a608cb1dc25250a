"""Panoptic segmentation: our merge against a slow twin, planted masks, and tiny models of all families."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from threeshnet.annotations.coco_classes import COCO_PANOPTIC, COCO_STUFF, aligned, plain
from threeshnet.annotations.coco_segmentation import PANOPTIC, numbered
from threeshnet.errors import ConfigError, DataError
from threeshnet.features.huggingface import without_slivers
from threeshnet.features.panoptic import (
    EomtSegmentation,
    OneFormerSegmentation,
    PanopticSegmentation,
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
from threeshnet.features.photos import PhotoBatches
from threeshnet.features.segmentation import WORK_SIDE
from threeshnet.records import VOID, ImageArrays, Photo
from threeshnet.shards.array_checks import faults
from threeshnet.shards.manifest import class_table_hash
from threeshnet.shards.schema import layout_of_arrays

from .tiny_segmenters import FAMILIES

KINDS: dict[str, Any] = {"oneformer": OneFormerSegmentation, "eomt": EomtSegmentation}
SIZES = [(120, 80), (50, 75), (120, 80), (33, 100)]  # width, height; the first and third meet in a group
NAMES = ("cat", "sky", "dog", "grass", "car")
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "coco_mini" / "panoptic_sample"
SURE = 30.0  # a logit


# --- the merge


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


# --- models


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    made: dict[tuple[str, tuple[str, ...]], Path] = {}

    def folder(family: str, names: tuple[str, ...] = NAMES) -> Path:
        if (family, names) not in made:
            made[family, names] = FAMILIES[family](tmp_path_factory.mktemp(family), names)
        return made[family, names]

    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Photo]:
    folder = tmp_path_factory.mktemp("photos")
    return [picture(folder, number, size) for number, size in enumerate(SIZES)]


def picture(folder: Path, number: int, size: tuple[int, int]) -> Photo:
    coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), np.uint8)
    file = folder / f"{number}.png"
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file)
    return Photo(str(number), file, "train", ("a caption",))


def build(family: str, folder: Path, **options: Any) -> PanopticSegmentation:
    return KINDS.get(family, PanopticSegmentation)(name=folder, **options)


def batch(source: PanopticSegmentation, photos: list[Photo]) -> Any:
    loaded = PhotoBatches(photos, [source], [range(len(photos))])[0]
    assert not loaded.damaged
    return loaded.inputs[0]


def extract(source: PanopticSegmentation, photos: list[Photo]) -> ImageArrays:
    with torch.inference_mode():
        return source(batch(source, photos))


def whole(arrays: ImageArrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    assert arrays.seg_semantic is not None
    assert arrays.seg_map is not None
    assert arrays.seg_categories is not None
    return arrays.seg_semantic, arrays.seg_map, arrays.seg_categories


class Planted(nn.Module):
    """In place of a network: the same queries for every photo."""

    def __init__(self, classes: Tensor, masks: Tensor) -> None:
        super().__init__()
        self.classes, self.masks = classes, masks

    def forward(self, pixel_values: Tensor, **told: Tensor) -> Any:
        size = (len(pixel_values), -1, -1, -1)
        return SimpleNamespace(
            class_queries_logits=self.classes.expand(size[:3]), masks_queries_logits=self.masks.expand(size)
        )


def planted(rectangles: Sequence[tuple[int, slice, slice]], classes: int, height: int, width: int) -> Planted:
    """A sure query a rectangle (class, rows, columns), and one that sees nothing everywhere."""
    logits = torch.full((len(rectangles) + 1, classes + 1), -SURE)
    masks = torch.full((len(rectangles) + 1, height, width), -SURE)
    for number, (label, rows, columns) in enumerate(rectangles):
        logits[number, label] = SURE
        masks[number, rows, columns] = SURE
    logits[-1, -1], masks[-1] = SURE, SURE
    return Planted(logits, masks)


@pytest.mark.parametrize(("family", "height", "width"), [("mask2former", 16, 32), ("eomt", 16, 16)])
def test_planted_masks_are_recovered(
    family: str, height: int, width: int, folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    """A photo of 128 x 64 px in masks of 4 px a cell; EoMT pads it to a square, of which it is the upper half."""
    source, photos = build(family, folder_of(family)), [picture(tmp_path, 0, (128, 64))]
    rows = 8 if family == "eomt" else 16
    across = slice(0, width)
    hidden = [(4, slice(rows, height), across)] if family == "eomt" else []
    upper, middle = slice(0, rows // 4), slice(rows // 4, rows * 3 // 4)  # and void below
    source.network = planted([*hidden, (2, upper, across), (0, middle, across)], 5, height, width)
    semantic, classes, categories = whole(extract(source, photos))
    np.testing.assert_array_equal(classes[0], np.repeat([2, 0, VOID], [16, 32, 16])[:, None].repeat(64, axis=1))
    assert categories.tolist() == [[1, 0, 1, 0, 0]]
    shares = np.zeros((5, 7, 7))
    shares[2, :2], shares[0, 1:6] = np.array([[1], [0.75]]), np.array([[0.25], [1], [1], [1], [0.25]])
    np.testing.assert_allclose(semantic[0], shares, atol=0.02)  # the enlargement blurs the edges
    assert source.segmented(batch(source, photos))[0].panoptic.ids.unique().tolist() == [0, 1, 2]


def test_planted_classes_come_in_the_order_of_coco(folder_of: Callable[..., Path], photos: list[Photo]) -> None:
    source = build("mask2former", folder_of("mask2former", COCO_PANOPTIC[::-1]))
    grass, person = COCO_PANOPTIC.index("grass-merged"), COCO_PANOPTIC.index("person")
    everywhere = (slice(0, 16), slice(0, 16))
    parts = [(132 - grass, everywhere[0], slice(0, 4)), (132 - grass, everywhere[0], slice(12, 16))]
    source.network = planted([*parts, (132 - person, everywhere[0], slice(4, 12))], 133, 16, 16)
    semantic, classes, categories = whole(extract(source, photos[:1]))
    assert class_table_hash(source.class_names, 133) == class_table_hash(COCO_PANOPTIC, 133)
    assert classes[0, 5, [0, 15, 16, 47, 48, 63]].tolist() == [grass, grass, person, person, grass, grass]
    assert np.flatnonzero(categories[0]).tolist() == [person, grass]
    assert semantic[0, person, :, 3].min() > 0.99
    (segments,) = (found.panoptic.segments for found in source.segmented(batch(source, photos[:1])))
    assert [(segment.id, segment.label) for segment in segments] == [(1, grass), (2, person)]  # grass is stuff


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixed_batch_is_one_photo_at_a_time(family: str, folder_of: Callable[..., Path], photos: list[Photo]) -> None:
    source = build(family, folder_of(family), score_threshold=0.0, overlap_threshold=0.0, at_once=3)
    together = extract(source, photos)
    assert not faults(together, layout_of_arrays(together, None), [photo.id for photo in photos])
    semantic, classes, categories = whole(together)
    assert semantic.dtype == np.float16
    assert (classes != VOID).any(), "random queries made no segment: nothing is compared"
    assert np.ptp(semantic.astype(np.float32), axis=(2, 3)).max() > 0
    for number, photo in enumerate(photos):
        alone = whole(extract(source, [photo]))
        np.testing.assert_allclose(semantic[number], alone[0][0], atol=2e-3)
        assert (classes[number] == alone[1][0]).mean() > 0.995  # ties of random queries
        np.testing.assert_array_equal(categories[number], alone[2][0])


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_are_those_of_the_processor(family: str, folder_of: Callable[..., Path], photos: list[Photo]) -> None:
    source = build(family, folder_of(family))
    with Image.open(photos[1].file) as image:
        expected = source.processor(images=image, return_tensors="pt")["pixel_values"]
        loaded = source.load(photos[1], image)
    torch.testing.assert_close(source.normalized(loaded["pixels"][None]), expected, atol=1e-5, rtol=1e-5)
    height, width = loaded["photo"].tolist()
    assert abs(height / width - 75 / 50) < 0.1 or family in ("mask2former", "maskformer")  # these round up to 32 px


@pytest.mark.parametrize("family", FAMILIES)
def test_photos_of_any_shape(family: str, folder_of: Callable[..., Path], tmp_path: Path) -> None:
    odd = [picture(tmp_path, number, size) for number, size in enumerate([(1, 1), (3000, 1), (3, 3), (2, 400)])]
    semantic, *_ = whole(extract(build(family, folder_of(family)), odd))
    assert np.isfinite(semantic).all()
    assert without_slivers(Image.new("RGB", (3000, 1))).size == (3000, 94)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_close(family: str, folder_of: Callable[..., Path], photos: list[Photo]) -> None:
    source = build(family, folder_of(family))
    semantic, *_ = whole(extract(source, photos[:2]))
    with torch.autocast("cpu", torch.bfloat16):
        rounded, *_ = whole(extract(source, photos[:2]))
    np.testing.assert_allclose(rounded, semantic, atol=0.05)


def test_oneformer_is_told_its_task(folder_of: Callable[..., Path], photos: list[Photo], tmp_path: Path) -> None:
    source: Any = build("oneformer", folder_of("oneformer"))
    assert source.extra_inputs(3)["task_inputs"].shape == (3, 8)
    words = json.loads((source.folder / "vocab.json").read_text())
    first = [words["<|startoftext|>"], words["th"], words["e</w>"], words["t"]]
    assert source.extra_inputs(1)["task_inputs"][0, :4].tolist() == first
    before, *_ = whole(extract(source, photos[:1]))
    source.task[:, 1:] = 0  # other words, other masks: what it is told arrives
    assert not np.array_equal(whole(extract(source, photos[:1]))[0], before)
    bare = FAMILIES["oneformer"](tmp_path, NAMES)
    (bare / "vocab.json").unlink()
    (bare / "merges.txt").unlink()
    with pytest.raises(DataError, match=r"vocab\.json, merges\.txt"):
        build("oneformer", bare)


def test_what_changes_the_arrays_changes_the_identity(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    folder = folder_of("mask2former")
    first = build("mask2former", folder).identity()
    assert first["name"] == "mask2former"
    assert build("mask2former", folder, at_once=1).identity() == first
    others = [build("mask2former", folder, score_threshold=0.5), build("mask2former", folder, overlap_threshold=0.5)]
    others.append(build("mask2former", FAMILIES["mask2former"](tmp_path, NAMES[:4])))
    assert len({json.dumps(one.identity()) for one in others} | {json.dumps(first)}) == 4


def test_settings_and_models_that_do_not_fit(folder_of: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*score_threshold=2.*at_once=0"):
        build("mask2former", Path(), score_threshold=2, at_once=0)
    with pytest.raises(ConfigError, match="model type='eomt' does not exist; there are: mask2former, maskformer"):
        PanopticSegmentation(name=folder_of("eomt"))
    with pytest.raises(DataError, match=r"no/such-model.*segmentation\.name=<folder>.*HF_HOME.*segmentation=lite0"):
        PanopticSegmentation(name="no/such-model")


def test_the_merge_is_finer_than_the_cells() -> None:
    assert WORK_SIDE % 64 == 0
    assert WORK_SIDE % 7 == 0
