"""The things that captions of the demo world speak of, as masks, and whether a place lies on one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from threeshnet.demo.classes import CLASSES, COLUMNS, ROWS
from threeshnet.demo.words import NOUNS
from threeshnet.explanations.explanation import pixels
from threeshnet.explanations.places import PHOTO, Place

COVERED = 0.1  # of a place, by the thing that it lies on
ACROSS, DOWN = (76, 148), (78, 142)  # pixels between the columns and rows of the demo's places (demo/render.py)


class Objects(NamedTuple):
    """Masks [224, 224] of what a *what* caption asks for."""

    named: np.ndarray  # every thing that the sentence names
    different: np.ndarray  # the one that the twin lacks


class DemoScenes:
    """The scenes of a rendered world, by the id of the photo."""

    def __init__(self, raw: Path) -> None:
        self.raw = raw
        images = json.loads((raw / "dataset_demo.json").read_text(encoding="utf-8"))["images"]
        self.images: Mapping[str, Any] = {Path(image["filename"]).stem: image for image in images}

    def objects(self, photo: str, caption: str) -> Objects:
        image = self.images[photo]
        things, twins = image["scene"]["things"], self.images[image["twin"]]["scene"]["things"]
        named = [thing for thing in things if self._says(caption, thing["name"])]
        return Objects(self._mask(photo, named), self._mask(photo, [t for t in things if t not in twins]))

    @staticmethod
    def _says(caption: str, name: str) -> bool:
        return bool(set(re.findall(r"\w+", caption)) & set(NOUNS.get(name, (name,))))

    def _mask(self, photo: str, things: list[Mapping[str, Any]]) -> np.ndarray:
        """The pixels of things: of their class, at their place."""
        classes = np.asarray(Image.open(self.raw / "segmentation" / f"{photo}.png"))
        y, x = np.indices(classes.shape)
        column, row = np.digitize(x, ACROSS), np.digitize(y, DOWN)
        mask = np.zeros(classes.shape, bool)
        for thing in things:
            here = (column == COLUMNS.index(thing["column"])) & (row == ROWS.index(thing["row"]))
            mask |= here & (classes == CLASSES.index(thing["name"]))
        return mask


def lies_on(place: Place, mask: np.ndarray) -> bool:
    """Whether a tenth of a place is the object; never of the whole photo."""
    if place.box is None or place.kind == PHOTO:
        return False
    return bool(mask[pixels(place.box, (mask.shape[1], mask.shape[0]))].mean() >= COVERED)
