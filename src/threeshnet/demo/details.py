"""What is drawn inside the silhouettes of the demo world: parts that a family shares, and the detail of each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

Colour = tuple[int, ...]
FINE, BOLD = 0.035, 0.05  # widths of lines, of the box
GLASS, WOOD, TYRE, PALE, INKY = (196, 222, 236), (126, 84, 50), (44, 44, 50), (250, 246, 236), (52, 44, 52)
GREY, FAINT = (168, 163, 160), (190, 184, 180)


class Pen(Protocol):
    """What a drawing needs of `demo_sprites.Ink`."""

    def shape(self, shape: tuple[str, Sequence[float]], fill: object, grow: float = 0.0) -> None: ...

    def line(self, numbers: Sequence[float], fill: object, width: float) -> None: ...

    def ring(self, numbers: Sequence[float], fill: object, width: float) -> None: ...


def shaded(colour: Colour, light: float) -> Colour:
    """A colour made darker or lighter."""
    return tuple(min(255, round(part * light)) for part in colour)


def box(x0: float, y0: float, x1: float, y1: float) -> tuple[str, Sequence[float]]:
    """A rectangle as a shape."""
    return "polygon", (x0, y0, x1, y0, x1, y1, x0, y1)


def dot(x: float, y: float, radius: float) -> tuple[str, Sequence[float]]:
    """A disc as a shape."""
    return "ellipse", (x, y, radius, radius)


def balloon_parts(pen: Pen, _: Colour) -> None:
    pen.shape(("polygon", (0.41, 0.82, 0.59, 0.82, 0.57, 0.97, 0.43, 0.97)), WOOD)
    pen.shape(("ellipse", (0.36, 0.24, 0.07, 0.1)), PALE)


def jet_parts(pen: Pen, body: Colour) -> None:
    pen.shape(("ellipse", (0.87, 0.5, 0.06, 0.05)), GLASS)
    pen.shape(("polygon", (0.4, 0.6, 0.62, 0.6, 0.36, 0.84, 0.26, 0.84)), shaded(body, 0.82))


def butterfly_parts(pen: Pen, body: Colour) -> None:
    pen.shape(("ellipse", (0.5, 0.52, 0.05, 0.35)), INKY)
    for x, y in ((0.32, 0.7), (0.68, 0.7)):
        pen.shape(("ellipse", (x, y, 0.15, 0.16)), shaded(body, 0.86))


def ferry_parts(pen: Pen, body: Colour) -> None:
    pen.shape(box(0.24, 0.38, 0.72, 0.6), PALE)
    for x in (0.32, 0.48, 0.64):
        pen.shape(box(x - 0.05, 0.43, x + 0.05, 0.53), (120, 150, 172))
    pen.line((0.06, 0.63, 0.94, 0.63), shaded(body, 0.75), BOLD)


def duck_parts(pen: Pen, body: Colour) -> None:
    pen.shape(("polygon", (0.82, 0.24, 0.99, 0.3, 0.82, 0.36)), (238, 160, 48))
    pen.shape(dot(0.76, 0.23, 0.028), (20, 20, 24) if sum(body) > 250 else PALE)
    pen.line((0.24, 0.62, 0.36, 0.74, 0.54, 0.74), shaded(body, 0.7), FINE)


def ambulance_parts(pen: Pen, _: Colour) -> None:
    pen.shape(box(0.34, 0.18, 0.5, 0.26), (236, 190, 70))
    pen.shape(("polygon", (0.58, 0.31, 0.68, 0.31, 0.78, 0.47, 0.58, 0.47)), GLASS)
    pen.shape(box(0.4, 0.31, 0.53, 0.47), GLASS)
    for x in (0.25, 0.75):
        pen.shape(dot(x, 0.78, 0.11), TYRE)
        pen.shape(dot(x, 0.78, 0.05), (170, 170, 176))


def house_parts(pen: Pen, body: Colour) -> None:
    pen.shape(("polygon", (0.03, 0.48, 0.26, 0.12, 0.74, 0.12, 0.97, 0.48)), shaded(body, 0.58))
    pen.shape(box(0.58, 0.58, 0.78, 0.76), GLASS)
    pen.shape(box(0.2, 0.58, 0.46, 0.95), shaded(body, 0.84))


def horse_parts(pen: Pen, body: Colour) -> None:
    pen.shape(dot(0.82, 0.24, 0.022), (20, 20, 24) if sum(body) > 250 else PALE)
    for left, right in ((0.28, 0.38), (0.52, 0.62)):
        pen.shape(box(left, 0.66, right, 0.92), shaded(body, 0.72))


def ball_parts(pen: Pen, _: Colour) -> None:
    pen.shape(("ellipse", (0.34, 0.26, 0.09, 0.06)), PALE)


def mushroom_parts(pen: Pen, _: Colour) -> None:
    pen.shape(("polygon", (0.42, 0.55, 0.58, 0.55, 0.6, 0.95, 0.4, 0.95)), (232, 218, 192))


def apple_parts(pen: Pen, _: Colour) -> None:
    pen.line((0.5, 0.06, 0.5, 0.28), WOOD, BOLD)
    pen.shape(("ellipse", (0.66, 0.12, 0.14, 0.07)), (84, 150, 66))


def vase_parts(pen: Pen, body: Colour) -> None:
    pen.shape(("polygon", (0.29, 0.05, 0.65, 0.05, 0.61, 0.14, 0.33, 0.14)), shaded(body, 0.75))
    pen.shape(box(0.3, 0.88, 0.64, 0.96), shaded(body, 0.75))


def clock_parts(pen: Pen, _: Colour) -> None:
    pen.shape(dot(0.5, 0.5, 0.35), PALE)
    for x, y in ((0.5, 0.21), (0.79, 0.5), (0.5, 0.79), (0.21, 0.5)):
        pen.shape(dot(x, y, 0.025), INKY)


def lines(*paths: Sequence[float], width: float = FINE) -> Callable[[Pen, Colour], None]:
    """A detail made of lines."""

    def draw(pen: Pen, colour: Colour) -> None:
        for path in paths:
            pen.line(path, colour, width)

    return draw


def dots(*centres: tuple[float, float], radius: float = 0.045) -> Callable[[Pen, Colour], None]:
    """A detail made of dots."""

    def draw(pen: Pen, colour: Colour) -> None:
        for x, y in centres:
            pen.shape(dot(x, y, radius), colour)

    return draw


def rings(*ellipses: Sequence[float], width: float = FINE) -> Callable[[Pen, Colour], None]:
    """A detail made of the outlines of ellipses."""

    def draw(pen: Pen, colour: Colour) -> None:
        for ellipse in ellipses:
            pen.ring(ellipse, colour, width)

    return draw


def checks(pen: Pen, colour: Colour) -> None:
    """A taxi's band."""
    for number in range(9):
        top = 0.53 if number % 2 else 0.585
        pen.shape(box(0.12 + 0.085 * number, top, 0.205 + 0.085 * number, top + 0.055), colour)


def patches(pen: Pen, colour: Colour) -> None:
    """A cow's coat."""
    for ellipse in ((0.32, 0.46, 0.09, 0.07), (0.54, 0.5, 0.1, 0.08), (0.74, 0.36, 0.04, 0.07)):
        pen.shape(("ellipse", ellipse), colour)


def needle(pen: Pen, _: Colour) -> None:
    """A compass's needle."""
    pen.shape(("polygon", (0.32, 0.66, 0.46, 0.45, 0.55, 0.54)), GREY)
    pen.shape(("polygon", (0.67, 0.33, 0.46, 0.45, 0.55, 0.54)), FAINT)


def hands(pen: Pen, _: Colour) -> None:
    """A clock's hands."""
    pen.line((0.5, 0.26, 0.5, 0.5, 0.66, 0.6), GREY, BOLD)


EXTRAS: dict[str, Callable[[Pen, Colour], None]] = {
    "balloon": balloon_parts,
    "jet": jet_parts,
    "butterfly": butterfly_parts,
    "ferry": ferry_parts,
    "duck": duck_parts,
    "ambulance": ambulance_parts,
    "house": house_parts,
    "horse": horse_parts,
    "ball": ball_parts,
    "mushroom": mushroom_parts,
    "apple": apple_parts,
    "vase": vase_parts,
    "clock": clock_parts,
}
DETAILS: dict[str, Callable[[Pen, Colour], None]] = {
    "balloon": rings((0.5, 0.38, 0.14, 0.35), (0.5, 0.38, 0.27, 0.36)),
    "lantern": lines((0.2, 0.22, 0.8, 0.22), (0.15, 0.38, 0.85, 0.38), (0.2, 0.54, 0.8, 0.54), (0.3, 0.68, 0.7, 0.68)),
    "jet": dots((0.34, 0.5), (0.45, 0.5), (0.56, 0.5), (0.67, 0.5), radius=0.032),
    "glider": lines((0.1, 0.52, 0.78, 0.52), width=0.04),
    "butterfly": dots((0.2, 0.28), (0.33, 0.38), (0.8, 0.28), (0.67, 0.38), (0.32, 0.72), (0.68, 0.72)),
    "moth": lines((0.1, 0.42, 0.4, 0.22), (0.9, 0.42, 0.6, 0.22), (0.22, 0.78, 0.42, 0.66), (0.78, 0.78, 0.58, 0.66)),
    "ferry": lines((0.11, 0.71, 0.89, 0.71), (0.15, 0.79, 0.85, 0.79)),
    "yacht": dots((0.26, 0.74), (0.42, 0.74), (0.58, 0.74), (0.74, 0.74)),
    "duck": lines((0.63, 0.42, 0.79, 0.46), width=0.06),
    "goose": dots((0.68, 0.32), radius=0.055),
    "ambulance": lines((0.2, 0.45, 0.2, 0.67), (0.09, 0.56, 0.31, 0.56), width=0.065),
    "taxi": checks,
    "house": lines((0.21, 0.68, 0.45, 0.68), (0.21, 0.82, 0.45, 0.82), (0.33, 0.58, 0.33, 0.94)),
    "barn": lines((0.21, 0.59, 0.45, 0.94), (0.45, 0.59, 0.21, 0.94)),
    "horse": lines((0.71, 0.12, 0.66, 0.24, 0.63, 0.4, 0.6, 0.46), (0.11, 0.46, 0.08, 0.7), width=0.085),
    "cow": patches,
    "ball": rings((0.12, 0.5, 0.24, 0.34), (0.88, 0.5, 0.24, 0.34)),
    "globe": lines((0.1, 0.32, 0.9, 0.32), (0.05, 0.5, 0.95, 0.5), (0.1, 0.68, 0.9, 0.68)),
    "mushroom": dots((0.24, 0.38), (0.5, 0.24), (0.76, 0.38), (0.5, 0.44), radius=0.05),
    "umbrella": lines((0.5, 0.1, 0.5, 0.53), (0.5, 0.1, 0.3, 0.53), (0.5, 0.1, 0.7, 0.53)),
    "apple": dots((0.38, 0.46), (0.28, 0.6), (0.6, 0.5), (0.72, 0.64), (0.48, 0.74), radius=0.028),
    "peach": lines((0.5, 0.3, 0.43, 0.5, 0.44, 0.72, 0.5, 0.88), width=0.04),
    "vase": lines((0.33, 0.44, 0.31, 0.8), (0.47, 0.4, 0.47, 0.84), (0.61, 0.44, 0.63, 0.8)),
    "jug": lines((0.2, 0.54, 0.74, 0.54), (0.18, 0.68, 0.76, 0.68)),
    "clock": hands,
    "compass": needle,
}
