"""From a scene of the demo world to a picture and its exact panoptic segmentation."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

import numpy as np

from threeshnet.demo.classes import CLASSES, COLUMNS, SIZES
from threeshnet.demo.scene import Scene, Thing
from threeshnet.demo.sprites import sprite
from threeshnet.demo.stuff import WIDTH, texture

SIDE = 224  # pixels of a picture
CENTRES: dict[str, int] = dict(zip(COLUMNS, (40, 112, 184), strict=True))  # pixels from the left
EXTENTS = {"air": 36, "far": 30, "near": 42}  # pixels of a medium thing
JITTER = 6  # pixels
FRONT_SIDE = 112  # where sides meet, pixels from the left
FRONT_DEPTH = 146  # where far ground meets near ground, pixels from the top


class Style(NamedTuple):
    """The look of a whole world: another one makes a set for studies of transfer."""

    light: tuple[float, float, float] = (1.0, 1.0, 1.0)  # factor of red, green, blue
    scale: float = 1.0  # of every thing
    turned: int = 0  # columns by which the textures are shifted


STYLES = {"day": Style(), "dusk": Style(light=(0.92, 0.74, 0.7), scale=0.86, turned=150)}


class Picture(NamedTuple):
    """A rendered scene."""

    rgb: np.ndarray  # [224, 224, 3] uint8
    classes: np.ndarray  # [224, 224] uint8, number of the class of each pixel


def render(scene: Scene, style: Style) -> Picture:
    """The picture of a scene; what no caption speaks of comes from `scene.look` alone, so twins share it."""
    canvas = Canvas(scene, style)
    order = sorted(scene.things, key=lambda thing: ("air", "far", "near").index(thing.row))
    for thing in order:
        canvas.add(thing)
    return Picture(np.clip(canvas.rgb * np.array(style.light, np.float32), 0, 255).astype(np.uint8), canvas.classes)


class Canvas:
    """A picture in the making."""

    def __init__(self, scene: Scene, style: Style) -> None:
        self.style, self.look = style, scene.look
        rng = Random(scene.look)
        horizon = rng.uniform(86, 100)
        top = horizon - rng.uniform(20, 30)
        light = {name: rng.uniform(0.93, 1.05) for name in dict.fromkeys(scene.stuff)}
        start = {name: (rng.randrange(WIDTH - SIDE) + style.turned) % (WIDTH - SIDE) for name in light}
        numbers = self._layers(scene, rng, horizon, top)
        self.classes = numbers
        self.rgb = np.empty((SIDE, SIDE, 3), np.float32)
        for name in light:
            here = numbers == CLASSES.index(name)
            rows = slice(first := int(here.any(axis=1).argmax()), SIDE - int(here[::-1].any(axis=1).argmax()))
            from_row = 0 if name == "fence" else first  # a fence's rails keep their distance from its top
            look = texture(name)[from_row : from_row + rows.stop - first, start[name] : start[name] + SIDE]
            np.copyto(self.rgb[rows], look * np.float32(light[name]), where=here[rows, :, None])

    def _layers(self, scene: Scene, rng: Random, horizon: float, top: float) -> np.ndarray:
        """The class of each pixel of the empty scene."""
        x, y = np.arange(SIDE)[None, :], np.arange(SIDE)[:, None]
        numbers = np.full((SIDE, SIDE), CLASSES.index(scene.back), np.uint8)
        if scene.middle:
            numbers[y > top + skyline(rng, scene.middle)[None, :]] = CLASSES.index(scene.middle)
        flat = scene.back == "wall" or scene.middle == "fence"
        ground = y > horizon + (0 * x if flat else wave(rng, 3.0)[None, :])
        numbers[ground] = CLASSES.index(scene.front[0])
        if scene.division == "sides":
            border = FRONT_SIDE + wave(rng, 5.0)[:, None] + rng.uniform(-0.12, 0.12) * (y - SIDE)
            numbers[ground & (x > border)] = CLASSES.index(scene.front[1])
        elif scene.division == "depth":
            numbers[ground & (y > FRONT_DEPTH + wave(rng, 3.0)[None, :])] = CLASSES.index(scene.front[1])
        return numbers

    def add(self, thing: Thing) -> None:
        """Draw a thing over what is there, with its shadow where it stands on something."""
        jitter = Random(f"{self.look} {thing.column} {thing.row}")
        side = round(EXTENTS[thing.row] * SIZES[thing.size] * self.style.scale)
        x = CENTRES[thing.column] + jitter.randint(-JITTER, JITTER) - side // 2
        if thing.row == "air":
            y = 31 + jitter.randint(-4, 4) - side // 2
        else:
            y = (128 if thing.row == "far" else 208) + jitter.randint(-JITTER, JITTER) - side
            self._shadow(x + side / 2, y + 0.96 * side, side)
        drawing = sprite(thing.name, thing.colour, thing.texture, side, thing.flipped)
        window = (slice(y, y + side), slice(x, x + side))
        cover = drawing.cover[..., None]
        self.rgb[window] = self.rgb[window] * (1 - cover) + drawing.rgb * cover
        self.classes[window][drawing.cover > 0.5] = CLASSES.index(thing.name)

    def _shadow(self, x: float, y: float, side: int) -> None:
        left, right = max(int(x - 0.6 * side), 0), min(int(x + 0.6 * side) + 1, SIDE)
        upper, lower = int(y - 0.12 * side), min(int(y + 0.14 * side) + 1, SIDE)
        across = (np.arange(left, right)[None, :] - x) / (0.5 * side)
        down = (np.arange(upper, lower)[:, None] - y) / (0.11 * side)
        depth = np.clip(1 - across**2 - down**2, 0, 1)[..., None].astype(np.float32)
        self.rgb[upper:lower, left:right] *= 1 - 0.45 * depth


def wave(rng: Random, height: float) -> np.ndarray:
    """A gentle wavy line, [SIDE] pixels around 0."""
    t = np.arange(SIDE) / SIDE
    parts = [(rng.uniform(-1, 1) * height / k, k, rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3)]
    return np.sum([size * np.sin(2 * np.pi * k * t + phase) for size, k, phase in parts], axis=0)


def skyline(rng: Random, stuff: str) -> np.ndarray:
    """The upper edge of mountains, a forest or a fence, [SIDE] pixels around 0."""
    x = np.arange(SIDE)
    if stuff == "mountain":
        peaks = [(rng.uniform(0, SIDE), rng.uniform(-26, -12), rng.uniform(0.5, 0.9)) for _ in range(4)]
        return np.min([height + slope * np.abs(x - centre) for centre, height, slope in peaks], axis=0).clip(None, 8)
    if stuff == "forest":
        shift = rng.uniform(0, 20)
        return -6 * np.abs(np.sin((x + shift) / 7.0)) - 4 * np.abs(np.sin((x + 2 * shift) / 12.3)) + wave(rng, 3.0)
    return np.abs((x % 14) - 9) * 0.9 - 2.0
