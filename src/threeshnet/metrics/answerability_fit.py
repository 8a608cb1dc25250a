"""Fits a `Calibration` to embeddings of a split that the model was not trained on.

The photos are divided into two halves, and each caption is asked of the half that holds its photo; the other half is
its bank. It is asked once with the photo in that gallery, and once with it taken out. Smaller galleries are asked too,
so that the coefficients cannot rest on one size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from scipy.stats import rankdata

from threeshnet.metrics.answerability import Bank, Fitted, Logistic, Numbers, log_mean_exp

FEWEST = 4  # photos: two in each half, so that one is left when the other is taken out
MOST_PHOTOS, MOST_QUERIES = 500, 1500  # of a half
SMALLER = 4  # the smaller galleries have that many times fewer photos
RIDGE = 1e-3  # on the coefficients of standardised signals
SHARPEST = 300.0  # exp(300 s) is finite, and similarities that differ by 0.02 are further apart than anybody can use
USUAL = [0.05, 0.95]  # quantiles of the levels of dev: the usual range
RECALL = 0.95  # of the threshold
QUANTILES = np.concatenate([np.linspace(0, 0.95, 20), 1 - np.geomspace(0.04, 1e-4, 12), [1.0]])
PARTS = 10  # equal shares of the queries, for the calibration error


class Asked(NamedTuple):
    """Queries with their similarities to a gallery that holds each one's photo, and to a bank that does not."""

    scores: Numbers  # [Q, G]
    owners: Any  # [Q] int, columns of `scores`
    bank: Numbers  # [Q, N]

    @property
    def own(self) -> Numbers:
        """Similarity [Q] of each query with its photo."""
        return self.scores[np.arange(len(self.owners)), self.owners]

    @property
    def without(self) -> Numbers:
        """Similarities [Q, G - 1] with its photo taken out."""
        others = np.ones(self.scores.shape, bool)
        others[np.arange(len(self.owners)), self.owners] = False
        return self.scores[others].reshape(len(self.owners), -1)


def fitted(images: Any, captions: Any, owners: Any, *, seed: int) -> dict[str, Any]:
    """The fields of a `Calibration`; see `Calibration.fit`."""
    images, captions = np.asarray(images, np.float32), np.asarray(captions, np.float32)
    owners = np.asarray(owners, np.int64)
    if len(images) < FEWEST or not len(captions):
        raise ValueError(f"{len(images)} images, {len(captions)} captions: a calibration takes {FEWEST} images or more")
    halves = asked(images, captions, owners, np.random.default_rng(seed))
    whole = halves[:2]
    sharpness = sharpness_of(whole)
    signals = [signals_of(each, sharpness) for each in halves]
    levels = np.quantile(np.concatenate([pair[0][:, 1] for pair in signals[:2]]), USUAL).tolist()
    for side in (side for pair in signals for side in pair):
        side[:, 1].clip(*levels, out=side[:, 1])
    plain, with_bank = logistic(signals, bank=False), logistic(signals, bank=True)
    scores, below = tail_of(np.concatenate([each.without.ravel() for each in whole]), sharpness)
    present, absent = probabilities(with_bank, signals[:2])
    reached = Fitted(
        photos=whole[0].scores.shape[1],
        captions=len(present),
        auroc=auroc(present, absent),
        error=calibration_error(present, absent),
    )
    return {
        "sharpness": sharpness,
        "plain": plain,
        "with_bank": with_bank,
        "bank": Bank.of(images),
        "levels": levels,
        "threshold": float(np.quantile(present, 1 - RECALL)),
        "scores": scores,
        "below": below,
        "fitted": reached,
    }


def asked(images: Any, captions: Any, owners: Any, generator: np.random.Generator) -> list[Asked]:
    """Both halves, each the gallery of its captions and the bank of the other; then a part of each as the gallery."""
    order = generator.permutation(len(images))
    first, second = (np.sort(half[:MOST_PHOTOS]) for half in np.array_split(order, 2))
    sizes = [len(first), max(2, len(first) // SMALLER)]
    found = []
    for size in sizes:
        for half, other in ((first, second), (second, first)):
            photos = np.sort(generator.permutation(half)[:size])
            place = np.full(len(images), -1)
            place[photos] = np.arange(len(photos))
            queries = generator.permutation(np.flatnonzero(place[owners] >= 0))[:MOST_QUERIES]
            asking = captions[queries]
            scores, bank = ((asking @ images[rows].T).astype(np.float64) for rows in (photos, other))
            found.append(Asked(scores, place[owners[queries]], bank))
    return found


def sharpness_of(galleries: list[Asked]) -> float:
    """The most likely sharpness: of each query's own photo among those of its gallery."""

    def loss(logarithm: float) -> float:
        sharpness = np.exp(logarithm)
        each = (np.logaddexp.reduce(sharpness * g.scores, axis=1) - sharpness * g.own for g in galleries)
        return float(np.concatenate(list(each)).mean())

    found = minimize_scalar(loss, bounds=(0.0, np.log(SHARPEST)), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x))


def signals_of(gallery: Asked, sharpness: float) -> tuple[Numbers, Numbers]:
    """(evidence without a bank, level) of queries with their photo present, and with it taken out: [Q, 2] each."""
    level = log_mean_exp(sharpness * gallery.bank)
    present = log_mean_exp(sharpness * gallery.scores)
    absent = log_mean_exp(sharpness * gallery.without)
    return np.stack([present, level], axis=1), np.stack([absent, level], axis=1)


def logistic(signals: list[tuple[Numbers, Numbers]], *, bank: bool) -> Logistic:
    """Logistic regression of present against absent, every gallery counting alike; the slope is not negative."""
    inputs = [np.concatenate(pair) for pair in signals]
    truth = np.concatenate([np.repeat([1.0, 0.0], len(pair[0])) for pair in signals])
    weight = np.concatenate([np.full(len(each), 1 / len(each) / len(inputs)) for each in inputs])
    values = np.concatenate(inputs)
    values = np.stack([values[:, 0] - values[:, 1], values[:, 1]], axis=1) if bank else values[:, :1]
    centre, spread = values.mean(axis=0), values.std(axis=0)
    spread[spread == 0] = 1.0
    standard = np.column_stack([np.ones(len(values)), (values - centre) / spread])

    def loss(weights: Numbers) -> tuple[float, Numbers]:
        odds = standard @ weights
        value = weight @ (np.logaddexp(0, odds) - truth * odds) + RIDGE * (weights[1:] ** 2).sum()
        slope = standard.T @ (weight * (expit(odds) - truth)) + 2 * RIDGE * np.concatenate([[0.0], weights[1:]])
        return float(value), slope

    bounds = [(None, None), (0.0, None), (None, None)][: standard.shape[1]]
    found = minimize(loss, np.zeros(standard.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds).x
    slopes = found[1:] / spread
    names = ("evidence", "level")
    coefficients = {name: float(value) for name, value in zip(names, slopes, strict=False)}
    return Logistic(constant=float(found[0] - slopes @ centre), **coefficients)


def probabilities(by: Logistic, signals: list[tuple[Numbers, Numbers]]) -> tuple[Numbers, Numbers]:
    """Of an answer, with the bank: of queries with their photo present, and with it taken out."""
    present, absent = (np.concatenate([pair[side] for pair in signals]) for side in (0, 1))
    odds = (by.constant + by.evidence * (each[:, 0] - each[:, 1]) + by.level * each[:, 1] for each in (present, absent))
    one, other = (expit(each) for each in odds)
    return one, other


def tail_of(scores: Numbers, sharpness: float) -> tuple[list[float], list[float]]:
    """Quantiles of the scores of photos that are no answer, and log(mean of exp(sharpness * s)) of those below each."""
    values = np.sort(scores)
    sums = np.logaddexp.accumulate(sharpness * values) - np.log(np.arange(1, len(values) + 1))
    places = np.round(QUANTILES * (len(values) - 1)).astype(int)
    return values[places].tolist(), np.maximum.accumulate(sums[places]).tolist()


# ---- how well it holds


def auroc(present: Numbers, absent: Numbers) -> float:
    """How often a present query scores higher than an absent one; ties count half.

    >>> auroc(np.array([3.0, 2.0]), np.array([2.0, 1.0]))
    0.875
    """
    ranks = rankdata(np.concatenate([present, absent]))[: len(present)]
    return float((ranks.sum() - len(present) * (len(present) + 1) / 2) / (len(present) * len(absent)))


def calibration_error(present: Numbers, absent: Numbers, parts: int = PARTS) -> float:
    """Mean difference between the probability of an answer and how often there is one, over equal shares of queries.

    >>> calibration_error(np.array([1.0, 1.0]), np.array([0.0, 0.0]), parts=2)
    0.0
    """
    probability = np.concatenate([present, absent])
    truth = np.concatenate([np.ones(len(present)), np.zeros(len(absent))])
    order = np.argsort(probability, kind="stable")
    shares = [share for share in np.array_split(order, parts) if len(share)]
    return float(sum(abs((probability[s] - truth[s]).sum()) for s in shares) / len(order))
