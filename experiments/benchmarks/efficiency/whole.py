"""From what was measured to what a whole gallery takes: linear in images, in sentences and in pairs.

Rows of results.json by name: {"unit", "items", "seconds": [one a repeat], "commit"}.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from .systems import CROSS, THREE, VSE

Row = Mapping[str, Any]
Pick = Callable[[Iterable[float]], float]  # of the repeats' seconds: median, max (the slowest) or min
IMAGES = {system: f"images, {system}" for system in (THREE, VSE, CROSS)}
SENTENCES = {THREE: "sentences, pooled", VSE: "sentences, pooled", CROSS: "sentences, words"}
PAIRS = "pairs, cross-attention"
DIRECTIONS = ("t2i", "i2t")


def search(direction: str, images: int) -> str:
    """Name of the row of a search by inner product in a gallery of so many images."""
    return f"search, {direction}, {images:,} images"


class Speeds(NamedTuple):
    """What one system does in a second."""

    images: float  # encoded
    sentences: float  # encoded
    t2i: float  # pairs scored when sentences look for images
    i2t: float  # pairs scored when images look for sentences


class Parts(NamedTuple):
    """Names of the rows that `Speeds` come from."""

    images: str
    sentences: str
    t2i: str
    i2t: str


class Whole(NamedTuple):
    """A gallery and all its sentences: seconds, and what follows from them."""

    images: float  # seconds to encode them
    sentences: float
    scoring: float  # of every pair, once
    pairs: int
    sentence_queries: float  # a second, the images being encoded: each is encoded, and searches
    image_queries: float  # a second, the sentences being encoded

    @property
    def seconds(self) -> float:
        return self.images + self.sentences + self.scoring

    @property
    def kpps(self) -> float:
        """Thousands of pairs a second, encoding counted."""
        return self.pairs / self.seconds / 1_000

    @property
    def scoring_kpps(self) -> float:
        """Thousands of pairs a second, everything being encoded."""
        return self.pairs / self.scoring / 1_000


def whole(speeds: Speeds, images: int, captions: int) -> Whole:
    """What `images` and `captions` take at these speeds.

    >>> whole(Speeds(images=10, sentences=50, t2i=1_000, i2t=500), images=100, captions=500).seconds
    70.0
    """
    return Whole(
        images=images / speeds.images,
        sentences=captions / speeds.sentences,
        scoring=images * captions / speeds.t2i,
        pairs=images * captions,
        sentence_queries=1 / (1 / speeds.sentences + images / speeds.t2i),
        image_queries=1 / (1 / speeds.images + captions / speeds.i2t),
    )


def parts(system: str, images: int) -> Parts:
    """What was measured of a system for a gallery of so many images; both searches by inner product are one row."""
    t2i, i2t = (PAIRS if system == CROSS else search(direction, images) for direction in DIRECTIONS)
    return Parts(IMAGES[system], SENTENCES[system], t2i, i2t)


def speeds(rows: Mapping[str, Row], system: str, images: int, pick: Pick = statistics.median) -> Speeds:
    """Of a system in a gallery of so many images."""
    return Speeds(*(rows[name]["items"] / pick(rows[name]["seconds"]) for name in parts(system, images)))


def sampled(rows: Mapping[str, Row], system: str, images: int, captions: int) -> Parts:
    """`≈` for each part that is drawn out from a sample, else nothing."""
    full = (images, captions, images * captions, images * captions)
    names = parts(system, images)
    return Parts(*("≈" if rows[name]["items"] < all_of_it else "" for name, all_of_it in zip(names, full, strict=True)))
