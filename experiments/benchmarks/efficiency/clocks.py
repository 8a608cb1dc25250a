"""What is measured, and how often: each case in its turn, some rounds of all."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor

from threeshnet.metrics.similarity import EmbeddingSimilarity

from .cross_attention import EveryPair
from .nearest import Blocks, Products, nearest
from .systems import CROSS, THREE, VSE, Encoders, photos, sentences, unit_vectors, word_vectors
from .whole import DIRECTIONS, IMAGES, PAIRS, SENTENCES, search

TOP = 10  # of the best that a search gives


class Case(NamedTuple):
    """One row of results.json."""

    name: str
    unit: str  # what is counted
    items: int  # of them, in one measurement
    measure: Callable[[], float]  # seconds


class Bench:
    """Models, inputs and embeddings of the cases; each is made when the first case asks for it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.encoders = Encoders(options)

    def cases(self) -> list[Case]:
        """In the order of a round."""
        options = self.options
        found = [
            Case(IMAGES[system], "images", options.images, partial(self.encode_images, system))
            for system in (THREE, VSE, CROSS)
        ]
        found += [
            Case(SENTENCES[system], "sentences", options.sentences, partial(self.encode_sentences, system))
            for system in (THREE, CROSS)  # VSE-infinity's are 3SHNet's
        ]
        for images in options.galleries:
            for direction in DIRECTIONS:
                queries, gallery = self.sides(direction, images)
                measure = partial(self.search, direction, images)
                found.append(Case(search(direction, images), "pairs", queries * gallery, measure))
        images = options.pair_images
        return [*found, Case(PAIRS, "pairs", images * images * options.captions, self.score_pairs)]

    def sides(self, direction: str, images: int) -> tuple[int, int]:
        """Queries (all, or as many as `--search-pairs` allows) and the gallery they are held against."""
        captions = images * self.options.captions
        queries, gallery = (captions, images) if direction == "t2i" else (images, captions)
        return min(queries, max(self.options.search_pairs // gallery, 1)), gallery

    # ---- measurements, each in seconds

    def encode_images(self, system: str) -> float:
        return timed([partial(self.encoders.images, system, batch) for batch in self.photos])

    def encode_sentences(self, system: str) -> float:
        return timed([partial(self.encoders.sentences, system, batch) for batch in self.sentences])

    def search(self, direction: str, images: int) -> float:
        """The best of the gallery for every query; all of the gallery is looked at."""
        queries, gallery = self.sides(direction, images)
        these, those = self.embeddings if direction == "t2i" else self.embeddings[::-1]
        kind = EmbeddingSimilarity if self.options.precision == "float64" else Products
        return self.timed_search(kind(these[:queries], those[:gallery]), self.options.block_cells)

    def score_pairs(self) -> float:
        regions, words = self.tokens
        return self.timed_search(EveryPair(regions, words, over_words=self.options.over_words), self.options.pair_cells)

    def timed_search(self, source: Blocks, cells: int) -> float:
        """After a warm-up on a corner of the pairs."""
        side = slice(0, max(int(cells**0.5), 1))
        return timed([partial(nearest, source, TOP, cells)], warm_up=partial(source.block, side, side))

    # ---- inputs

    @cached_property
    def photos(self) -> list:
        return photos(self.options.images, self.options)

    @cached_property
    def sentences(self) -> list:
        return sentences(self.options.sentences, self.options)

    @cached_property
    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Of the captions and of the images of the largest gallery; a smaller one is the first of these."""
        images, dim = max(self.options.galleries), self.options.dim
        return unit_vectors([images * self.options.captions, dim], seed=5), unit_vectors([images, dim], seed=6)

    @cached_property
    def tokens(self) -> tuple:
        """Regions and words for the cross-attention."""
        images, dim = self.options.pair_images, self.options.dim
        regions = unit_vectors([images, self.options.regions, dim], seed=7)
        return regions, word_vectors(images * self.options.captions, dim)


def timed(work: list[Callable[[], object]], warm_up: Callable[[], object] | None = None) -> float:
    """Seconds for all of it, after a warm-up that is not counted: the first piece, unless another is given."""
    with torch.inference_mode():
        (warm_up or work[0])()
        started = time.perf_counter()
        for piece in work:
            piece()
        return time.perf_counter() - started
