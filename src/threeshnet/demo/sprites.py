"""The things of the demo world as small drawings: one silhouette a family, one detail inside a class.

Coordinates are fractions of the drawing's box, x to the right and y down. Drawn four times too large and reduced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from threeshnet.demo.classes import COLOURS, FAMILY_OF
from threeshnet.demo.details import DETAILS, EXTRAS

OVERSIZE = 4  # drawn so many times larger, then reduced: smooth edges
OUTLINE = 0.022  # of the box
DETAIL_CONTRAST = 0.22  # share of dark or light ink in the detail that tells a class
Shape = tuple[str, Sequence[float]]  # ("ellipse", (cx, cy, rx, ry)) or ("polygon", (x, y, x, y, …))

SILHOUETTES: dict[str, tuple[Shape, ...]] = {
    "balloon": (
        ("ellipse", (0.5, 0.38, 0.36, 0.36)),
        ("polygon", (0.28, 0.62, 0.72, 0.62, 0.58, 0.8, 0.42, 0.8)),
        ("polygon", (0.41, 0.82, 0.59, 0.82, 0.57, 0.97, 0.43, 0.97)),
    ),
    "jet": (
        ("ellipse", (0.5, 0.54, 0.47, 0.13)),
        ("polygon", (0.06, 0.5, 0.02, 0.22, 0.14, 0.22, 0.27, 0.46)),
        ("polygon", (0.4, 0.6, 0.62, 0.6, 0.36, 0.84, 0.26, 0.84)),
    ),
    "butterfly": (
        ("ellipse", (0.27, 0.33, 0.24, 0.24)),
        ("ellipse", (0.73, 0.33, 0.24, 0.24)),
        ("ellipse", (0.32, 0.7, 0.18, 0.19)),
        ("ellipse", (0.68, 0.7, 0.18, 0.19)),
        ("ellipse", (0.5, 0.52, 0.06, 0.36)),
    ),
    "ferry": (
        ("polygon", (0.03, 0.6, 0.97, 0.6, 0.84, 0.88, 0.16, 0.88)),
        ("polygon", (0.24, 0.38, 0.72, 0.38, 0.72, 0.62, 0.24, 0.62)),
        ("polygon", (0.52, 0.16, 0.64, 0.16, 0.64, 0.4, 0.52, 0.4)),
    ),
    "duck": (
        ("ellipse", (0.44, 0.66, 0.36, 0.22)),
        ("polygon", (0.03, 0.48, 0.25, 0.58, 0.2, 0.74)),
        ("polygon", (0.6, 0.62, 0.64, 0.3, 0.8, 0.3, 0.78, 0.68)),
        ("ellipse", (0.72, 0.27, 0.14, 0.14)),
    ),
    "ambulance": (
        ("polygon", (0.03, 0.36, 0.1, 0.26, 0.7, 0.26, 0.84, 0.48, 0.97, 0.54, 0.97, 0.78, 0.03, 0.78)),
        ("polygon", (0.34, 0.18, 0.5, 0.18, 0.5, 0.28, 0.34, 0.28)),
        ("ellipse", (0.25, 0.78, 0.11, 0.11)),
        ("ellipse", (0.75, 0.78, 0.11, 0.11)),
    ),
    "house": (
        ("polygon", (0.12, 0.46, 0.88, 0.46, 0.88, 0.95, 0.12, 0.95)),
        ("polygon", (0.03, 0.48, 0.26, 0.12, 0.74, 0.12, 0.97, 0.48)),
    ),
    "horse": (
        ("ellipse", (0.44, 0.5, 0.34, 0.17)),
        ("polygon", (0.14, 0.5, 0.26, 0.5, 0.25, 0.95, 0.16, 0.95)),
        ("polygon", (0.28, 0.55, 0.38, 0.55, 0.37, 0.92, 0.3, 0.92)),
        ("polygon", (0.52, 0.55, 0.62, 0.55, 0.61, 0.92, 0.54, 0.92)),
        ("polygon", (0.64, 0.5, 0.76, 0.5, 0.74, 0.95, 0.66, 0.95)),
        ("polygon", (0.62, 0.5, 0.7, 0.16, 0.84, 0.2, 0.78, 0.54)),
        ("polygon", (0.7, 0.18, 0.78, 0.1, 0.97, 0.3, 0.92, 0.38, 0.76, 0.34)),
        ("polygon", (0.12, 0.42, 0.05, 0.72, 0.11, 0.72, 0.18, 0.5)),
    ),
    "ball": (("ellipse", (0.5, 0.5, 0.46, 0.46)),),
    "mushroom": (
        ("polygon", (0.42, 0.48, 0.58, 0.48, 0.6, 0.95, 0.4, 0.95)),
        ("polygon", (0.03, 0.54, 0.07, 0.36, 0.2, 0.18, 0.38, 0.08, 0.62, 0.08, 0.8, 0.18, 0.93, 0.36, 0.97, 0.54)),
    ),
    "apple": (
        ("ellipse", (0.36, 0.56, 0.31, 0.38)),
        ("ellipse", (0.64, 0.56, 0.31, 0.38)),
        ("polygon", (0.47, 0.06, 0.54, 0.06, 0.53, 0.3, 0.48, 0.3)),
        ("ellipse", (0.66, 0.12, 0.14, 0.07)),
    ),
    "vase": (
        ("ellipse", (0.47, 0.62, 0.31, 0.32)),
        ("polygon", (0.36, 0.1, 0.58, 0.1, 0.56, 0.4, 0.38, 0.4)),
        ("polygon", (0.29, 0.05, 0.65, 0.05, 0.61, 0.14, 0.33, 0.14)),
        ("polygon", (0.6, 0.2, 0.82, 0.24, 0.88, 0.42, 0.74, 0.56, 0.7, 0.5, 0.79, 0.41, 0.76, 0.32, 0.6, 0.3)),
        ("polygon", (0.3, 0.86, 0.64, 0.86, 0.66, 0.96, 0.28, 0.96)),
    ),
    "clock": (("ellipse", (0.5, 0.5, 0.46, 0.46)),),
}


class Sprite(NamedTuple):
    """A drawing: colours, how much covers each pixel, and the same cover as a mask."""

    rgb: np.ndarray  # [h, w, 3] float32, 0 to 255
    cover: np.ndarray  # [h, w] float32, 0 to 1


class Ink:
    """Draws shapes, given in fractions of the box, on an enlarged canvas."""

    def __init__(self, image: Image.Image) -> None:
        self.draw, self.side = ImageDraw.Draw(image), image.width

    def shape(self, shape: Shape, fill: object, grow: float = 0.0) -> None:
        """A filled ellipse or polygon, `grow` larger on every side."""
        kind, numbers = shape
        if kind == "ellipse":
            cx, cy, rx, ry = numbers
            box = (cx - rx - grow, cy - ry - grow, cx + rx + grow, cy + ry + grow)
            self.draw.ellipse([value * self.side for value in box], fill=fill)  # type: ignore[arg-type]
            return
        points = self._points(numbers)
        self.draw.polygon(points, fill=fill)  # type: ignore[arg-type]
        if grow:
            width = max(1, round(2 * grow * self.side))
            self.draw.line([*points, points[0], points[1]], fill=fill, width=width, joint="curve")  # type: ignore[arg-type]

    def line(self, numbers: Sequence[float], fill: object, width: float) -> None:
        """A line through points, `width` of the box wide."""
        points = self._points(numbers)
        self.draw.line(points, fill=fill, width=max(1, round(width * self.side)), joint="curve")  # type: ignore[arg-type]

    def ring(self, numbers: Sequence[float], fill: object, width: float) -> None:
        """The outline of an ellipse (cx, cy, rx, ry)."""
        cx, cy, rx, ry = (value * self.side for value in numbers)
        box = [cx - rx, cy - ry, cx + rx, cy + ry]
        self.draw.ellipse(box, outline=fill, width=max(1, round(width * self.side)))  # type: ignore[arg-type]

    def _points(self, numbers: Sequence[float]) -> list[tuple[float, float]]:
        return [(x * self.side, y * self.side) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]


def mixed(colour: tuple[int, ...], other: tuple[int, ...], share: float) -> tuple[int, ...]:
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
    for shape in SILHOUETTES[family]:
        stencil.shape(shape, 255, OUTLINE)
    for shape in SILHOUETTES[family]:
        ink.shape(shape, body)
    if texture != "plain":
        cover_with(texture, mixed(body, (255, 255, 255) if sum(body) < 540 else (96, 88, 104), 0.5), canvas, family)
    EXTRAS[family](ink, body)
    DETAILS[name](ink, detail_colour(body))
    rgb = np.asarray(canvas.reduce(OVERSIZE), np.float32)
    cover = np.asarray(mask.reduce(OVERSIZE), np.float32) / 255
    light = np.linspace(1.1, 0.86, side, dtype=np.float32)[:, None, None]
    rgb = np.minimum(rgb * light, 255)
    return Sprite(rgb[:, ::-1], cover[:, ::-1]) if flipped else Sprite(rgb, cover)


def detail_colour(body: tuple[int, ...]) -> tuple[int, ...]:
    """What the telling detail is drawn with: visible, not loud."""
    bright = sum(body) > 300
    return mixed(body, (30, 26, 34) if bright else (255, 252, 244), DETAIL_CONTRAST)


def cover_with(texture: str, colour: tuple[int, ...], canvas: Image.Image, family: str) -> None:
    """Slanted stripes or spots over the body, not over the outline."""
    pattern = Image.new("L", canvas.size, 0)
    brush = Ink(pattern)
    if texture == "striped":
        for start in np.arange(-0.9, 1.0, 0.24):
            brush.line((start, 1.0, start + 0.9, 0.0), 255, 0.085)
    else:
        for row, y in enumerate(np.arange(0.08, 1.0, 0.2)):
            for x in np.arange(0.05 + 0.1 * (row % 2), 1.0, 0.2):
                brush.shape(("ellipse", (x, y, 0.05, 0.05)), 255)
    inside = Image.new("L", canvas.size, 0)
    for shape in SILHOUETTES[family]:
        Ink(inside).shape(shape, 255)
    both = Image.composite(pattern, Image.new("L", canvas.size, 0), inside)
    canvas.paste(Image.new("RGB", canvas.size, colour), (0, 0), both)
