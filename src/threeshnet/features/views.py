"""Other views of a photo, for training: a set of shards a view, with the same photos in the same order.

Features are made once and read in every epoch, so a model sees the same numbers of a photo each time and can learn it
by heart. A random crop in every epoch, as VSE++ has it (Faghri et al., BMVC 2018), needs the network that makes the
features; a few sets of features come near to that without it.
"""

from __future__ import annotations

import math
from typing import Protocol
from zlib import crc32

import numpy as np
from PIL import Image

from threeshnet.errors import ConfigError, Problems
from threeshnet.records import Photo

TRIES = 10  # for a box of the drawn area and shape that fits; then the photo as it is


class View(Protocol):
    """Another picture of a photo; equal identities give equal ones.

    To add a view: a class that takes the `number` of the view, and a yaml in conf/view.
    """

    identity: str

    def __call__(self, photo: Photo, image: Image.Image) -> Image.Image: ...


class RandomCrop:
    """A box of the photo, and of every other one its mirror image; the same for a photo whenever it is asked for.

    The box has `least_area` to 1 of the photo's area and its sides are in the ratio of the photo's, up to a third more
    or less, as in the crops that image classifiers are trained with (Szegedy et al., CVPR 2015). `number` tells views
    apart. Captions that say *left* or *right* are wrong of a mirror image: `mirrored=0` leaves them true.
    """

    def __init__(self, *, number: int = 1, least_area: float = 0.5, mirrored: float = 0.5) -> None:
        problems = Problems("view")
        problems.extend(
            f"{name}={value} is not a share between 0 and 1"
            for name, value in (("least_area", least_area), ("mirrored", mirrored))
            if not 0 <= value <= 1
        )
        if number < 0:
            problems.add(f"number={number} must not be negative")
        problems.raise_as(ConfigError)
        self.number, self.least_area, self.mirrored = number, least_area, mirrored
        self.identity = f"random_crop number={number} least_area={least_area} mirrored={mirrored}"

    def __call__(self, photo: Photo, image: Image.Image) -> Image.Image:
        """The view of a decoded photo, in as many pixels as the box has."""
        generator = np.random.default_rng([self.number, crc32(photo.id.encode())])
        mirrored = generator.random() < self.mirrored
        box = self._box(image.size, generator)
        seen = image if box == (0, 0, *image.size) else image.crop(box)
        return seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else seen

    def _box(self, size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int, int, int]:
        for _ in range(TRIES):
            area = generator.uniform(self.least_area, 1.0)
            shape = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
            sides = (math.sqrt(area * shape), math.sqrt(area / shape))
            width, height = (max(1, round(share * length)) for share, length in zip(sides, size, strict=True))
            if width <= size[0] and height <= size[1]:
                left, top = (int(generator.integers(n - m + 1)) for n, m in zip(size, (width, height), strict=True))
                return left, top, left + width, top + height
        return 0, 0, *size
