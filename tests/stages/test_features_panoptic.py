"""Panoptic segmentation by tiny models of all families, and of masks that were planted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from threeshnet.annotations.coco_classes import COCO_PANOPTIC
from threeshnet.errors import ConfigError, DataError
from threeshnet.features.huggingface import without_slivers
from threeshnet.features.panoptic import (
    EomtSegmentation,
    OneFormerSegmentation,
    PanopticSegmentation,
)
from threeshnet.features.photos import PhotoBatches
from threeshnet.records import VOID, ImageArrays, Photo
from threeshnet.shards.manifest import class_table_hash
from threeshnet.shards.row_checks import array_faults
from threeshnet.shards.schema import layout_of_arrays

from .pictures import extract, picture
from .tiny_segmenters import FAMILIES, made

KINDS: dict[str, Any] = {"oneformer": OneFormerSegmentation, "eomt": EomtSegmentation}
NAMES = ("cat", "sky", "dog", "grass", "car")
SURE = 30.0  # a logit


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    @cache
    def folder(family: str, names: tuple[str, ...] = NAMES) -> Path:
        return made(family, tmp_path_factory.mktemp(family), names)

    return folder


def build(family: str, folder: Path, **options: Any) -> PanopticSegmentation:
    return KINDS.get(family, PanopticSegmentation)(name=folder, **options)


def batch(source: PanopticSegmentation, photos: list[Photo]) -> Any:
    loaded = PhotoBatches(photos, [source], [range(len(photos))])[0]
    assert not loaded.damaged
    return loaded.inputs[0]


def whole(arrays: ImageArrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
    assert not array_faults(together, layout_of_arrays(together, None), [photo.id for photo in photos])
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
    bare = made("oneformer", tmp_path, NAMES)
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
    others.append(build("mask2former", made("mask2former", tmp_path, NAMES[:4])))
    assert len({json.dumps(one.identity()) for one in others} | {json.dumps(first)}) == 4


def test_settings_and_models_that_do_not_fit(folder_of: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*score_threshold=2.*at_once=0"):
        build("mask2former", Path(), score_threshold=2, at_once=0)
    with pytest.raises(ConfigError, match="model type='eomt' does not exist; there are: mask2former, maskformer"):
        PanopticSegmentation(name=folder_of("eomt"))
    with pytest.raises(DataError, match=r"no/such-model.*segmentation\.name=<folder>.*HF_HOME.*segmentation=lite0"):
        PanopticSegmentation(name="no/such-model")
