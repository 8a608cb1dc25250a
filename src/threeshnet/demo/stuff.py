"""The stuff of the demo world: one wide texture each, drawn once a process from its own fixed seed."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.random import Generator

from threeshnet.demo.classes import STUFF

WIDTH, HEIGHT = 448, 224  # wider than a picture, so that each picture shows another part of it


def noise(rng: Generator, cell_x: int, cell_y: int) -> np.ndarray:
    """Smooth noise in [-1, 1] with blobs of cell_x by cell_y pixels, [HEIGHT, WIDTH]."""
    points = rng.uniform(-1, 1, (HEIGHT // cell_y + 2, WIDTH // cell_x + 2))
    x, y = np.arange(WIDTH) / cell_x, np.arange(HEIGHT) / cell_y
    column, row = x.astype(int), y.astype(int)
    fx, fy = smooth(x - column)[None, :], smooth(y - row)[:, None]
    upper = points[row][:, column] * (1 - fx) + points[row][:, column + 1] * fx
    lower = points[row + 1][:, column] * (1 - fx) + points[row + 1][:, column + 1] * fx
    return upper * (1 - fy) + lower * fy


def smooth(t: np.ndarray) -> np.ndarray:
    """0 to 1 with level ends."""
    return t * t * (3 - 2 * t)


def tinted(colour: tuple[int, int, int], light: np.ndarray) -> np.ndarray:
    """A colour made lighter and darker by `light` [HEIGHT, WIDTH], in steps of brightness."""
    return np.asarray(colour, np.float64) + light[..., None]


def blend(under: np.ndarray, colour: tuple[int, int, int], cover: np.ndarray) -> np.ndarray:
    """A colour laid over a texture where `cover` [HEIGHT, WIDTH] is not 0."""
    share = np.clip(cover, 0, 1)[..., None]
    return under * (1 - share) + np.asarray(colour, np.float64) * share


def rows() -> np.ndarray:
    """The height of each pixel, 0 at the top to 1, [HEIGHT, 1]."""
    return (np.arange(HEIGHT) / HEIGHT)[:, None]


def sky(rng: Generator) -> np.ndarray:
    ramp = np.broadcast_to(rows(), (HEIGHT, WIDTH))
    base = blend(tinted((120, 178, 232), 0 * ramp), (214, 234, 246), ramp * 2.2)
    clouds = noise(rng, 64, 20) + 0.5 * noise(rng, 28, 10) + 0.2 * noise(rng, 10, 5)
    return blend(base, (250, 251, 253), (clouds - 0.35) * 1.6)


def water(rng: Generator) -> np.ndarray:
    waves = noise(rng, 40, 4) + 0.6 * noise(rng, 16, 3)
    return blend(tinted((58, 128, 168), 12 * waves), (178, 216, 230), (waves - 0.75) * 1.5)


def sand(rng: Generator) -> np.ndarray:
    return tinted((228, 206, 156), 7 * noise(rng, 48, 14) + 5 * noise(rng, 6, 3))


def grass(rng: Generator) -> np.ndarray:
    blades = noise(rng, 3, 9) + 0.5 * noise(rng, 5, 14)
    return tinted((112, 168, 82), 12 * blades + 9 * noise(rng, 60, 24))


def mountain(rng: Generator) -> np.ndarray:
    ridges = np.abs(noise(rng, 26, 22)) + 0.5 * np.abs(noise(rng, 12, 10))
    return tinted((132, 138, 164), 34 * (ridges - 0.4) - 8 * rows())


def forest(rng: Generator) -> np.ndarray:
    crowns = noise(rng, 12, 12) + 0.5 * noise(rng, 5, 5)
    return tinted((48, 98, 66), 17 * crowns)


def road(rng: Generator) -> np.ndarray:
    base = tinted((106, 108, 116), 5 * noise(rng, 50, 30) + 4 * noise(rng, 4, 4))
    dashes = ((np.arange(WIDTH) // 26) % 2 == 0)[None, :] & (
        (np.arange(HEIGHT) % 58 > 46) & (np.arange(HEIGHT) % 58 < 51)
    )[:, None]
    return blend(base, (236, 232, 214), 0.85 * dashes)


def snow(rng: Generator) -> np.ndarray:
    drifts = noise(rng, 70, 18) + 0.4 * noise(rng, 24, 8)
    return tinted((236, 241, 248), 9 * drifts - 4)


def wall(rng: Generator) -> np.ndarray:
    stripes = ((np.arange(WIDTH) // 16) % 2 * 7.0)[None, :]
    return tinted((222, 212, 198), stripes + 2.5 * noise(rng, 80, 60) - 6 * rows())


def floor(rng: Generator) -> np.ndarray:
    grain = noise(rng, 60, 3)
    plank = np.repeat(rng.uniform(-12, 12, HEIGHT // 16), 16)[:, None]
    seams = (np.arange(HEIGHT) % 16 == 0)[:, None] | (
        (np.arange(WIDTH)[None, :] + 37 * (np.arange(HEIGHT)[:, None] // 16)) % 112 == 0
    )
    return blend(tinted((186, 142, 98), 6 * grain + plank), (112, 80, 54), 0.7 * seams)


def table(rng: Generator) -> np.ndarray:
    return tinted((150, 96, 62), 9 * noise(rng, 90, 5) + 4 * noise(rng, 30, 2) + 26 * rows())


def carpet(rng: Generator) -> np.ndarray:
    x, y = np.arange(WIDTH)[None, :], np.arange(HEIGHT)[:, None]
    diamonds = (np.abs(x % 32 - 16) + np.abs(y % 32 - 16)) < 9
    return blend(tinted((146, 62, 74), 4 * noise(rng, 4, 4)), (206, 168, 128), 0.55 * diamonds)


def fence(rng: Generator) -> np.ndarray:
    x, y = np.arange(WIDTH)[None, :] % 14, np.arange(HEIGHT)[:, None]
    gaps = (x < 4) & ~(((y > 7) & (y < 12)) | ((y > 20) & (y < 25)))
    edges = (x == 4) | (x == 13)
    boards = blend(tinted((226, 220, 210), 4 * noise(rng, 6, 20)), (168, 160, 150), 0.8 * edges)
    return blend(boards, (86, 128, 76), 1.0 * gaps)


PAINTERS = {
    painter.__name__: painter
    for painter in (sky, water, sand, grass, mountain, forest, road, snow, wall, floor, table, carpet, fence)
}


@cache
def texture(stuff: str) -> np.ndarray:
    """The look of a stuff, [HEIGHT, WIDTH, 3] float32 in 0 to 255."""
    rng = np.random.default_rng(STUFF.index(stuff))
    return np.clip(PAINTERS[stuff](rng), 0, 255).astype(np.float32)
