"""From vectors to ranked rows: near-duplicates folded, `without` and hubs taken into account, probabilities beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from threeshnet.index.duplicates import folded
from threeshnet.metrics.answerability import RESULTS, Calibration

PENALTY = 0.5  # of the mean of `without` beside what is wanted; chosen on the demo's dev split (benchmarks/search)
SPARE = 20  # rows looked at beyond those asked for: near-duplicates are folded
MORE = 4  # times as many rows where too few are left


class Wanted(NamedTuple):
    """What one query looks for, vectors of unit length [D] and [m, D]."""

    vector: np.ndarray
    unwanted: np.ndarray
    is_sentence: bool  # alone: calibrations are of sentences


class Hubs(NamedTuple):
    """The hub correction of an index: `bias` [n] float64, and the hubs [n] bool that alone are corrected, if any."""

    bias: np.ndarray
    hubs: np.ndarray | None


class Ranked(NamedTuple):
    """One query's rows, the best first."""

    rows: np.ndarray  # [k]
    scores: np.ndarray  # [k] float64 cosine similarities, less those with `without`
    groups: list[list[int]]  # places in `rows` that are shown as one
    answerable: float | None
    probabilities: np.ndarray | None  # [k]


class Nearest(Protocol):
    def __call__(
        self, queries: np.ndarray, top: int, bias: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]: ...


class Ranking:
    """Ranks the rows of an index, or of the part of it that a filter leaves."""

    def __init__(
        self,
        nearest: Nearest,
        gallery: int,
        hashes: np.ndarray | None,
        hubs: Hubs | None,
        calibration: Calibration | None,
    ) -> None:
        """`gallery` counts the rows; `hashes` [n] fold near-duplicates."""
        self.nearest, self.gallery, self.hashes, self.hubs = nearest, gallery, hashes, hubs
        self.calibration = calibration

    def __call__(self, wanted: Sequence[Wanted], top: int, spare: int = SPARE) -> list[Ranked]:
        """The `top` groups of each query, or all that there are; first among `top + spare` rows."""
        least = RESULTS if self.calibration else top  # what probabilities need
        kept = min(max(top if self.hashes is None else top + spare, least), self.gallery)
        vectors = np.stack([each.vector for each in wanted])
        rows, scores = self.nearest(vectors, kept)
        plain = rows, scores
        rows, scores = self._altered(wanted, vectors, rows.copy(), scores.copy(), kept)
        rankings = []
        for place, each in enumerate(wanted):
            answerable, likely = self._probabilities(each, plain[1][place], scores[place])
            groups = [[rank] for rank in range(len(rows[place]))]
            if self.hashes is not None:
                groups = folded(self.hashes[rows[place]])
            rankings.append(Ranked(rows[place], scores[place], groups[:top], answerable, likely))
        short = [place for place, each in enumerate(rankings) if len(each.groups) < min(top, self.gallery)]
        if short and kept < self.gallery:  # many duplicates: look further down
            again = self([wanted[place] for place in short], top, MORE * (top + spare))
            for place, ranked in zip(short, again, strict=True):
                rankings[place] = ranked
        return rankings

    def _altered(
        self, wanted: Sequence[Wanted], vectors: np.ndarray, rows: np.ndarray, scores: np.ndarray, kept: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and scores with those queries ranked anew that have `without`, or that a hub correction applies to."""
        changed = vectors.copy()
        for place, each in enumerate(wanted):
            if len(each.unwanted):
                changed[place] -= PENALTY * each.unwanted.mean(axis=0)
        active = np.zeros(len(wanted), bool)
        if self.hubs is not None and rows.shape[1]:
            active[:] = True if self.hubs.hubs is None else self.hubs.hubs[rows[:, 0]]
        for corrected in (False, True):
            places = [place for place, each in enumerate(wanted) if active[place] == corrected]
            places = [place for place in places if corrected or len(wanted[place].unwanted)]
            if places:
                bias = self.hubs.bias if self.hubs is not None and corrected else None
                own, similarities = self.nearest(changed[places], kept, bias)
                rows[places], scores[places] = own, similarities if bias is None else similarities + bias[own]
        return rows, scores

    def _probabilities(
        self, wanted: Wanted, plain: np.ndarray, scores: np.ndarray
    ) -> tuple[float | None, np.ndarray | None]:
        """Of an answer at all, from the highest similarities `plain`, and of each row, from `scores`."""
        if self.calibration is None or not wanted.is_sentence or not len(plain):
            return None, None
        level = self.calibration.level(wanted.vector[None])
        answerable = float(self.calibration.answerable(plain[None], self.gallery, level)[0])
        best = float(self.calibration.probability(plain[None], self.gallery, level)[0, 0])
        shares = best * np.exp(np.minimum(self.calibration.sharpness * (scores - plain[0]), 0))
        return answerable, shares
