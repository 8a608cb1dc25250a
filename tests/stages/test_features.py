"""Extractors and their parts against the obvious version of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from threeshnet.errors import ConfigError, DataError
from threeshnet.features.boxes import nms, overlaps
from threeshnet.features.extractor import Extractor
from threeshnet.features.photos import PhotoBatches
from threeshnet.features.predict import choose_sources
from threeshnet.features.segmentation import (
    AnnotatedSegmentation,
    AutomaticSegmentation,
    OwnSegmentation,
    ShuffledSegmentation,
    class_shares,
    derangement,
    segmentation_arrays,
)
from threeshnet.features.synthetic import SyntheticArrays, SyntheticPhotos
from threeshnet.features.tiny import Tiny
from threeshnet.features.windows import WindowProposals, windows
from threeshnet.records import VOID, AnnotatedSet, Photo

from .pictures import extract, picture


def photo_of(folder: Path, number: int, mask: np.ndarray | None = None) -> Photo:
    if mask is None:
        return picture(folder, number)
    Image.fromarray(mask).save(folder / f"{number}-mask.png")
    return picture(folder, number, segmentation=folder / f"{number}-mask.png")


# --- decoding


def test_damaged_photos_have_a_reason(tmp_path: Path) -> None:
    photos = [photo_of(tmp_path, number) for number in range(4)]
    content = photos[1].file.read_bytes()
    photos[1].file.write_bytes(content[: len(content) // 2])
    photos[2].file.unlink()
    photos[3].file.write_bytes(b"")
    loaded = PhotoBatches(photos, [Tiny()], [range(4)])[0]
    assert loaded.numbers == [0]
    assert loaded.sizes == [(40, 30)]
    assert [number for number, _ in loaded.damaged] == [1, 2, 3]
    assert "missing" in loaded.damaged[1][1]


# --- boxes and windows


def slow_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    for number in np.argsort(-scores, kind="stable"):
        box = boxes[number]
        clear = True
        for other in (boxes[taken] for taken in kept):
            width = max(0, min(box[2], other[2]) - max(box[0], other[0]))
            height = max(0, min(box[3], other[3]) - max(box[1], other[1]))
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
            clear = clear and width * height / (sum(areas) - width * height) <= threshold
        kept += [int(number)] if clear else []
    return kept


@pytest.mark.parametrize("seed", range(5))
def test_nms_is_the_obvious_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.sort(rng.random((40, 2, 2)), axis=1).reshape(40, 4)
    scores = rng.random(40)
    kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold=0.3, most=40).tolist()
    assert kept == slow_nms(boxes, scores, 0.3)
    assert nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold=0.3, most=3).tolist() == kept[:3]


def test_windows_are_pooled_by_their_mean() -> None:
    torch.manual_seed(0)
    proposals = WindowProposals(side=7, most=9, overlap=0.5)
    cells, classifier = torch.randn(2, 49, 6), nn.Linear(6, 4)
    features, boxes, scores = proposals(cells, classifier(cells).detach())
    for image, kept, box, score in zip(cells, features, boxes, scores, strict=True):
        assert 1 <= len(kept) == len(box) == len(score) <= 9
        assert (np.diff(score) <= 0).all()
        shared = overlaps(torch.from_numpy(box)) - torch.eye(len(box))
        assert shared.max() <= 0.5
        for vector, (x1, y1, x2, y2), number in zip(kept, np.round(box * 7).astype(int), score, strict=True):
            mean = image.view(7, 7, 6)[y1:y2, x1:x2].mean(dim=(0, 1))
            np.testing.assert_allclose(vector, mean, atol=2e-3)
            assert classifier(mean).softmax(0).max().item() == pytest.approx(number, abs=1e-5)


def test_windows_lie_inside_and_reach_every_edge() -> None:
    found = np.array(windows(14))
    assert found.min() == 0
    assert found.max() == 14
    assert len(np.unique(found, axis=0)) == len(found)
    for column, edge in enumerate((0, 0, 14, 14)):
        assert (found[:, column] == edge).any()


# --- segmentation


def test_segmentation_from_probabilities_is_the_obvious_one() -> None:
    torch.manual_seed(0)
    probabilities = (torch.randn(2, 5, 7, 7) * 2).softmax(dim=1)
    arrays = segmentation_arrays(probabilities, 0.9)
    enlarged = nn.functional.interpolate(probabilities, size=(64, 64), mode="bilinear", align_corners=False)
    np.testing.assert_array_equal(arrays.seg_map, enlarged.argmax(dim=1))
    expected = [[int((image[number] >= 0.9).any()) for number in range(5)] for image in probabilities]
    assert arrays.seg_categories.tolist() == expected


def test_annotated_masks_become_area_shares(tmp_path: Path) -> None:
    mask = np.full((70, 140), VOID, np.uint8)
    mask[:, :70] = 2  # the left half
    mask[:10, 70:] = 0  # the uppermost cells of the right half
    photo = photo_of(tmp_path, 0, mask)
    annotated = AnnotatedSet("toy", (photo,), classes=("a", "b", "c"))
    arrays = extract(AnnotatedSegmentation().prepare(annotated), [photo])
    np.testing.assert_allclose(arrays.seg_semantic[0, 2, 3], [1, 1, 1, 0.5, 0, 0, 0])
    np.testing.assert_allclose(arrays.seg_semantic[0, 0, 0], [0, 0, 0, 0.5, 1, 1, 1])
    assert arrays.seg_semantic[0, :, 6, 6].sum() == 0  # void belongs to no class
    assert arrays.seg_map[0, 0, [0, 31, 32, 63]].tolist() == [2, 2, 0, 0]
    assert arrays.seg_map[0, 63, 63] == VOID
    assert arrays.seg_categories.tolist() == [[1, 0, 1]]


@pytest.mark.parametrize("side", [3, 4, 12])
def test_class_shares_are_the_mean_of_each_cell(side: int) -> None:
    mask = torch.randint(0, 5, (3, 12, 12), dtype=torch.uint8)
    mask[mask == 4] = VOID
    pooled = [functional.avg_pool2d((mask == number).float()[:, None], 12 // side) for number in range(5)]
    assert torch.equal(class_shares(mask, 5, side), torch.cat(pooled, dim=1)), "to the last bit"


def test_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    photo = photo_of(tmp_path, 0, np.full((8, 8), 3, np.uint8))
    source = AnnotatedSegmentation().prepare(AnnotatedSet("toy", (photo,), classes=("a", "b", "c")))
    with pytest.raises(DataError, match="class 3; there are 0 to 2, and 255"):
        source.load(photo, None)


@pytest.mark.parametrize("count", [2, 3, 17])
def test_a_derangement_leaves_nothing_in_place(count: int) -> None:
    order = derangement(count, seed=3)
    assert sorted(order) == list(range(count))
    assert (order != np.arange(count)).all()
    assert derangement(count, seed=3).tolist() == order.tolist()


def test_shuffled_gives_another_photos_segmentation(tmp_path: Path) -> None:
    photos = [photo_of(tmp_path, number, np.full((8, 8), number, np.uint8)) for number in range(3)]
    annotated = AnnotatedSet("toy", tuple(photos), classes=("a", "b", "c"))
    arrays = extract(ShuffledSegmentation(source=AnnotatedSegmentation()).prepare(annotated), photos)
    found = [int(image[0, 0]) for image in arrays.seg_map]
    assert sorted(found) == [0, 1, 2]
    assert all(number != place for place, number in enumerate(found))


# --- extractors


def test_tiny_gives_every_field(tmp_path: Path) -> None:
    photos = [photo_of(tmp_path, number) for number in range(3)]
    arrays = extract(Tiny(), photos)
    assert arrays.grid.shape == (3, 49, 16)
    assert arrays.grid.dtype == np.float16
    assert all(1 <= len(regions) <= 4 for regions in arrays.regions)
    np.testing.assert_allclose(arrays.seg_semantic.astype(np.float32).sum(axis=1), 1, atol=2e-3)
    again = extract(Tiny(), photos)
    np.testing.assert_array_equal(again.grid, arrays.grid)
    assert Tiny(seed=1).identity() != Tiny().identity()


def test_synthetic_arrays_do_not_depend_on_the_order() -> None:
    photos = list(SyntheticPhotos(images=5, seed=1).read(Path()).photos)
    source = SyntheticArrays(region_width=8, grid_width=6, classes=4)
    forward, backward = extract(source, photos), extract(source, photos[::-1])
    assert forward.grid.shape == (5, 49, 6)
    np.testing.assert_array_equal(forward.grid, backward.grid[::-1])
    assert not (forward.grid[0] == forward.grid[1]).all()


def test_synthetic_photos_are_cut_into_splits() -> None:
    photos = SyntheticPhotos(images=600).read(Path()).photos
    counts = {split: sum(photo.split == split for photo in photos) for split in ("train", "dev", "testall")}
    assert counts == {"train": 360, "dev": 120, "testall": 120}
    assert all(len(photo.captions) == 5 for photo in photos)
    assert SyntheticPhotos(images=600).read(Path()).photos == photos
    with pytest.raises(ConfigError, match="images=2"):
        SyntheticPhotos(images=2)


def test_sources_are_chosen_by_what_they_give(tmp_path: Path) -> None:
    photo = photo_of(tmp_path, 0, np.zeros((8, 8), np.uint8))
    with_masks = AnnotatedSet("toy", (photo,), classes=("a",))
    without = AnnotatedSet("toy", (photo,))

    def chosen(segmentation: Extractor | None, annotated: AnnotatedSet, fields: list[str]) -> list[tuple]:
        sources = choose_sources(Tiny(), segmentation=segmentation, fields=fields, annotated=annotated)
        return [(source.name, source.fields) for source in sources]

    everything = ["region", "grid", "seg"]
    assert chosen(AutomaticSegmentation(), without, everything) == [("tiny", ("region", "grid", "seg"))]
    assert chosen(AutomaticSegmentation(), with_masks, everything) == [
        ("tiny", ("region", "grid")),
        ("annotated", ("seg",)),
    ]
    assert chosen(OwnSegmentation(), with_masks, ["seg"]) == [("tiny", ("seg",))]
    assert chosen(AutomaticSegmentation(), with_masks, ["grid"]) == [("tiny", ("grid",))]
    with pytest.raises(ConfigError, match="there are: region, grid, seg"):
        chosen(None, without, ["grids"])
    grid_only = Tiny(fields=["grid"])
    with pytest.raises(ConfigError, match="nothing gives region"):
        choose_sources(grid_only, fields=["region", "grid"], annotated=without)


def test_another_extractor_may_give_the_grid() -> None:
    annotated = AnnotatedSet("x", ())
    sources = choose_sources(Tiny(), grid=Tiny(width=9, seed=1), fields=["region", "grid"], annotated=annotated)
    assert [(source.fields, source.options["width"]) for source in sources] == [(("region",), 16), (("grid",), 9)]
    alone = choose_sources(Tiny(), grid=Tiny(width=9), fields=["region"], annotated=annotated)
    assert [source.fields for source in alone] == [("region",)]
