"""The things of the demo world as small drawings: one silhouette a family, one detail inside a class.

`drawings.yaml` holds the shapes. They are drawn four times too large and reduced.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image, ImageDraw

from threeshnet.demo.classes import COLOURS, FAMILY_OF

OVERSIZE = 4  # drawn so many times larger, then reduced: smooth edges
OUTLINE = 0.022  # of the box
DETAIL_CONTRAST = 0.22  # share of dark or light ink in the detail that tells a class
DARK_EYE = (20, 20, 24)
DRAWINGS = yaml.safe_load(Path(__file__).with_name("drawings.yaml").read_text(encoding="utf-8"))
INKS = {name: tuple(colour) for name, colour in DRAWINGS["inks"].items()}
Colour = tuple[int, ...]


class Sprite(NamedTuple):
    """A drawing: colours, how much covers each pixel, and the same cover as a mask."""

    rgb: np.ndarray  # [h, w, 3] float32, 0 to 255
    cover: np.ndarray  # [h, w] float32, 0 to 1


class Ink:
    """Draws rows of the table on an enlarged canvas."""

    def __init__(self, image: Image.Image) -> None:
        self.draw, self.side = ImageDraw.Draw(image), image.width

    def add(self, kind: str, numbers: Sequence[float], fill: Any, grow: float = 0.0) -> None:
        """An ellipse or polygon, `grow` larger on every side, a line, or the outline of an ellipse (ring)."""
        width = max(1, round((numbers[0] if kind in ("line", "ring") else 2 * grow) * self.side))
        if kind == "ring":
            cx, cy, rx, ry = (value * self.side for value in numbers[1:])
            self.draw.ellipse([cx - rx, cy - ry, cx + rx, cy + ry], outline=fill, width=width)
        elif kind == "line":
            self.draw.line(self._points(numbers[1:]), fill=fill, width=width, joint="curve")
        elif kind == "ellipse":
            cx, cy, rx, ry = numbers
            box = (cx - rx - grow, cy - ry - grow, cx + rx + grow, cy + ry + grow)
            self.draw.ellipse([value * self.side for value in box], fill=fill)
        else:
            points = self._points(numbers)
            self.draw.polygon(points, fill=fill)
            if grow:
                self.draw.line([*points, points[0], points[1]], fill=fill, width=width, joint="curve")

    def _points(self, numbers: Sequence[float]) -> list[tuple[float, float]]:
        return [(x * self.side, y * self.side) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]


def mixed(colour: Colour, other: Colour, share: float) -> Colour:
    """`colour` with `share` of another."""
    return tuple(round(a * (1 - share) + b * share) for a, b in zip(colour, other, strict=True))


def sprite(name: str, colour: str, texture: str, side: int, flipped: bool) -> Sprite:
    """The drawing of a thing in a box of side x side pixels."""
    family = FAMILY_OF[name].pair[0]
    body = COLOURS[colour]
    dark = mixed(body, (20, 18, 24), 0.62)
    canvas = Image.new("RGB", (side * OVERSIZE, side * OVERSIZE), dark)
    mask = Image.new("L", canvas.size, 0)
    ink, stencil = Ink(canvas), Ink(mask)
    table = DRAWINGS[family]
    for kind, *numbers in table["silhouette"]:
        stencil.add(kind, numbers, 255, OUTLINE)
        ink.add(kind, numbers, body)
    if texture != "plain":
        cover_with(texture, mixed(body, (255, 255, 255) if sum(body) < 540 else (96, 88, 104), 0.5), canvas, family)
    for kind, colour_name, *numbers in (*table["parts"], *table[name]):
        ink.add(kind, numbers, ink_of(colour_name, body))
    rgb = np.asarray(canvas.reduce(OVERSIZE), np.float32)
    cover = np.asarray(mask.reduce(OVERSIZE), np.float32) / 255
    light = np.linspace(1.1, 0.86, side, dtype=np.float32)[:, None, None]
    rgb = np.minimum(rgb * light, 255)
    return Sprite(rgb[:, ::-1], cover[:, ::-1]) if flipped else Sprite(rgb, cover)


def ink_of(name: str, body: Colour) -> Colour:
    """The colour of an ink on a body; `detail`, which tells a class, is visible but not loud."""
    if name.startswith("body*"):
        return tuple(min(255, round(part * float(name[5:]))) for part in body)
    if name == "detail":
        return mixed(body, (30, 26, 34) if sum(body) > 300 else (255, 252, 244), DETAIL_CONTRAST)
    if name == "eye":
        return DARK_EYE if sum(body) > 250 else INKS["pale"]
    return INKS[name]


def cover_with(texture: str, colour: Colour, canvas: Image.Image, family: str) -> None:
    """Slanted stripes or spots over the body, not over the outline."""
    pattern = Image.new("L", canvas.size, 0)
    brush = Ink(pattern)
    if texture == "striped":
        for start in np.arange(-0.9, 1.0, 0.24):
            brush.add("line", (0.085, start, 1.0, start + 0.9, 0.0), 255)
    else:
        for row, y in enumerate(np.arange(0.08, 1.0, 0.2)):
            for x in np.arange(0.05 + 0.1 * (row % 2), 1.0, 0.2):
                brush.add("ellipse", (x, y, 0.05, 0.05), 255)
    inside = Image.new("L", canvas.size, 0)
    for kind, *numbers in DRAWINGS[family]["silhouette"]:
        Ink(inside).add(kind, numbers, 255)
    both = Image.composite(pattern, Image.new("L", canvas.size, 0), inside)
    canvas.paste(Image.new("RGB", canvas.size, colour), (0, 0), both)
