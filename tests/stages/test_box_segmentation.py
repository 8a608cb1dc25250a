"""Segmentation out of boxes against the definition, pixel by pixel, and with the networks of its yaml."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import cbook
from PIL import Image
from torch import Tensor

from threeshnet.annotations.coco_classes import COCO_THINGS
from threeshnet.errors import ConfigError
from threeshnet.features.box_segmentation import BoxSegmentation, front
from threeshnet.features.extractor import Extractor
from threeshnet.features.recipes import built
from threeshnet.features.segmentation import WORK_SIDE
from threeshnet.features.sources import as_extractor
from threeshnet.features.ssd import Ssd
from threeshnet.features.tiny import Tiny
from threeshnet.records import MAP_SIDE, SCENE_SIDE, VOID, AnnotatedSet, ImageArrays, Photo

from .pictures import extract, picture

STUFF = 3


class FoundBoxes(Extractor):
    """A detector that finds the same in every photo."""

    name = "found"
    able = ("region",)
    boxes = np.array([[0.1, 0.1, 0.9, 0.8], [0.3, 0.33, 0.55, 0.6], [0.5, 0.4, 1.0, 1.0], [0, 0, 1, 1]], np.float32)
    scores = np.array([0.9, 0.6, 0.5, 0.29], np.float32)
    labels = np.array([0, 3, 0, 1], np.int16)

    def __init__(self, *, found: int = 4) -> None:
        super().__init__()
        self.label_names, self.found = ("person", "chair", "cup", "dog"), found

    def load(self, photo: Photo, image: Image.Image | None) -> dict[str, Tensor]:
        return {"number": torch.tensor(0)}

    def forward(self, inputs: Mapping[str, Tensor]) -> ImageArrays:
        photos = len(inputs["number"])
        arrays = {key: [getattr(self, key)[-self.found :]] * photos for key in ("boxes", "scores", "labels")}
        return ImageArrays(**arrays)


def segmented(folder: Path, **options: Any) -> tuple[ImageArrays, ImageArrays]:
    """What boxes over the segmentation of `Tiny` give for two photos, and what that gives alone."""
    photos = [picture(folder, number) for number in range(2)]
    stuff = Tiny(fields=["seg"], classes=STUFF)
    return extract(BoxSegmentation(things=FoundBoxes(**options), stuff=stuff), photos), extract(stuff, photos)


def nearest(boxes: np.ndarray, side: int) -> np.ndarray:
    """The number of the smallest box over each pixel, pixel by pixel; -1 where there is none."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    found = np.full((side, side), -1)
    for row, column in np.ndindex(side, side):
        y, x = (row + 0.5) / side, (column + 0.5) / side
        over = [number for number, (x1, y1, x2, y2) in enumerate(boxes) if x1 <= x < x2 and y1 <= y < y2]
        found[row, column] = min(over, key=lambda number: areas[number], default=-1)
    return found


@pytest.mark.parametrize("side", [7, 64])
def test_the_smallest_box_lies_in_front(side: int) -> None:
    rng = np.random.default_rng(side)
    boxes = np.sort(rng.uniform(-0.1, 1.1, (6, 2, 2)), axis=1).reshape(6, 4).clip(0, 1)
    found = front(torch.tensor(boxes), side).numpy()
    np.testing.assert_array_equal(np.where(found == len(boxes), -1, found), nearest(boxes, side))


def test_arrays_are_those_of_the_definition(tmp_path: Path) -> None:
    made, below = segmented(tmp_path)
    high = FoundBoxes.scores >= 0.3
    boxes, scores, labels = FoundBoxes.boxes[high], FoundBoxes.scores[high], FoundBoxes.labels[high]
    on_pixels, on_map = nearest(boxes, WORK_SIDE), nearest(boxes, MAP_SIDE)
    things = len(FoundBoxes().label_names)
    for photo in range(2):
        semantic, stuff = np.asarray(made.seg_semantic)[photo], np.asarray(below.seg_semantic)[photo]
        for row, column in np.ndindex(SCENE_SIDE, SCENE_SIDE):
            size = WORK_SIDE // SCENE_SIDE
            cell = on_pixels[row * size : (row + 1) * size, column * size : (column + 1) * size]
            shares = np.array([(cell == number).mean() * score for number, score in enumerate(scores)])
            expected = [shares[labels == label].sum() for label in range(things)]
            expected = [*expected, *(stuff[:, row, column] * (1 - shares.sum()))]
            np.testing.assert_allclose(semantic[:, row, column], expected, atol=1e-3)
        for row, column in np.ndindex(MAP_SIDE, MAP_SIDE):
            over = on_map[row, column]
            expected = np.asarray(below.seg_map)[photo, row, column] + things if over < 0 else labels[over]
            assert np.asarray(made.seg_map)[photo, row, column] == expected
        categories = np.asarray(made.seg_categories)[photo]
        assert categories[:things].tolist() == [1, 0, 0, 1]
        np.testing.assert_array_equal(categories[things:], np.asarray(below.seg_categories)[photo])
    sums = np.asarray(made.seg_semantic).astype(np.float32).sum(axis=1)
    assert sums.max() <= 1 + 2e-3  # float16 rounds each class
    assert (np.asarray(made.seg_semantic).dtype, np.asarray(made.seg_map).dtype) == (np.float16, np.uint8)


def test_without_a_high_box_there_is_stuff_alone(tmp_path: Path) -> None:
    made, below = segmented(tmp_path, found=1)  # the last one, whose score is 0.29
    assert not np.asarray(made.seg_semantic)[:, :4].any()
    np.testing.assert_array_equal(np.asarray(made.seg_semantic)[:, 4:], below.seg_semantic)
    np.testing.assert_array_equal(made.seg_map, np.asarray(below.seg_map) + 4)


def test_void_stays_void() -> None:
    maker = BoxSegmentation(things=FoundBoxes(), stuff=Tiny(fields=["seg"], classes=STUFF))
    semantic, void = torch.zeros(STUFF, SCENE_SIDE, SCENE_SIDE), torch.full((MAP_SIDE, MAP_SIDE), VOID).byte()
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    _, seen, _ = maker.painted(
        boxes, torch.ones(1), torch.ones(1).short(), semantic, void, torch.zeros(STUFF, dtype=torch.uint8)
    )
    assert seen.unique().tolist() == [1, VOID]
    assert int((seen == 1).sum()) == (MAP_SIDE // 2) ** 2


def test_parts_that_make_something_else_are_refused() -> None:
    tiny = Tiny(fields=["seg"], classes=STUFF)
    with pytest.raises(ConfigError, match="things: 'tiny' has no classes of regions; take a detector, such as ssd"):
        BoxSegmentation(things=Tiny(), stuff=tiny)
    with pytest.raises(ConfigError, match="stuff: 'found' has no classes of its own; take a segmentation"):
        BoxSegmentation(things=FoundBoxes(), stuff=FoundBoxes())
    with pytest.raises(ConfigError, match="things and stuff have 256 classes together; a map has 255"):
        BoxSegmentation(things=FoundBoxes(), stuff=Tiny(fields=["seg"], classes=252))


@pytest.mark.skipif(find_spec(Ssd.package) is None, reason="weights package is not installed")
def test_persons_have_a_name_in_the_yaml() -> None:
    made = as_extractor("segmentation", "ssd_lite0", AnnotatedSet("", (), ()))
    assert isinstance(made, BoxSegmentation)
    assert made.threshold == made.parts["things"].threshold == 0.3
    assert (made.name, made.fields, made.small) == ("ssd+lite0", ("seg",), True)
    assert made.class_names[: len(COCO_THINGS)] == COCO_THINGS
    assert len(made.class_names) == 80 + 133
    assert made.identity() == built(made.recipe).identity()
    file = Path(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))  # public domain
    arrays = extract(made, [Photo("hopper", file, "train", ())])
    person, tie = COCO_THINGS.index("person"), COCO_THINGS.index("tie")
    assert np.asarray(arrays.seg_categories)[0, :80].nonzero()[0].tolist() == [person, tie]
    seen = np.asarray(arrays.seg_map)[0]
    assert (seen[32, 32], seen[52, 32]) == (person, tie)
    assert np.asarray(arrays.seg_semantic)[0, person, 3, 3] == pytest.approx(0.753, abs=0.02)
