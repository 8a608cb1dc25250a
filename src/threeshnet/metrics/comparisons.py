"""Statistical comparison of two models: a difference is reported only when its interval excludes zero.

There are two sources of chance. Photos: a paired bootstrap and a permutation test of two models on the same items.
Seeds: t-intervals over seeds. Both together: an analysis of variance over all seeds and all photos.

A permutation test must agree where there is one, because the percentile bootstrap is too narrow when few images decide.
If four images favour one model and none the other, 98% of the draws hold at least one of the four. Yet a coin toss for
each image gives a result as clear with probability 1/8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from torch import Tensor

from threeshnet.errors import ConfigError, DataError
from threeshnet.metrics.intervals import (
    DRAWS,
    LEVEL,
    NAMES,
    Hits,
    Interval,
    drawn_recalls,
    hits_by_fold,
    percentiles,
    with_rsum,
)
from threeshnet.metrics.ranks import Ranks

SIGN_CELLS = 1 << 24


class Difference(NamedTuple):
    """The first minus the second, with its confidence interval."""

    value: float
    interval: Interval
    level: float
    p: float | None = None  # two-sided, of the permutation test if there was one

    @property
    def verdict(self) -> str:
        """`difference` if the interval excludes zero and any test agrees; `no difference shown` otherwise."""
        agrees = self.p is None or self.p <= 1 - self.level
        return "difference" if agrees and self.interval.excludes(0.0) else "no difference shown"


class Spread(NamedTuple):
    """Mean and spread of a number over seeds."""

    mean: float
    deviation: float | None  # of the sample (n - 1); None for one seed
    interval: Interval | None  # of the mean, by Student's t; None for one seed
    seeds: int

    def __str__(self) -> str:
        """
        >>> str(over_seeds([1.0, 2.0, 3.0])), str(over_seeds([1.0]))
        ('2.0 ± 1.0 (3 seeds)', '1.0 (1 seed)')
        """
        spread = "" if self.deviation is None else f" ± {self.deviation:.1f}"
        return f"{self.mean:.1f}{spread} ({self.seeds} seed{'s' if self.seeds > 1 else ''})"


def over_seeds(values: Sequence[float], *, level: float = LEVEL) -> Spread:
    """Mean, sample standard deviation and t-interval of the mean.  Raises DataError without a finite number.

    >>> spread = over_seeds([1.0, 2.0, 3.0])
    >>> spread.mean, spread.deviation, [round(end, 2) for end in spread.interval]
    (2.0, 1.0, [-0.48, 4.48])
    """
    array = _numbers(values)
    mean, count = float(array.mean()), len(array)
    if count == 1:
        return Spread(mean, None, None, 1)
    deviation = float(array.std(ddof=1))
    return Spread(mean, deviation, _t_interval(mean, deviation / np.sqrt(count), count - 1, level), count)


def difference(
    one: Sequence[float], other: Sequence[float], *, paired: bool = False, level: float = LEVEL
) -> Difference:
    """The difference of two means over seeds, with a t-interval.

    Runs are independent (Welch's test: variances may differ) unless `paired`: then the n-th runs of both share a seed.
    Raises DataError for fewer than two runs a side.

    >>> difference([9.0, 9.1, 9.2], [5.0, 5.2, 5.1]).verdict
    'difference'
    >>> difference([9.0, 5.0], [5.0, 9.5]).verdict
    'no difference shown'
    """
    first, second = _numbers(one), _numbers(other)
    if min(len(first), len(second)) < 2:
        raise DataError(f"{len(first)} and {len(second)} runs: an interval needs two a side or more; run more seeds")
    if paired:
        if len(first) != len(second):
            raise DataError(f"paired runs need as many on both sides; there are {len(first)} and {len(second)}")
        apart = over_seeds((first - second).tolist(), level=level)
        assert apart.interval is not None
        return Difference(apart.mean, apart.interval, level)
    value = float(first.mean() - second.mean())
    parts = [side.var(ddof=1) / len(side) for side in (first, second)]
    variance = float(sum(parts))
    if variance == 0.0:
        return Difference(value, Interval(value, value), level)
    # Welch and Satterthwaite's number of degrees of freedom.
    freedom = variance**2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, (first, second), strict=True))
    return Difference(value, _t_interval(value, np.sqrt(variance), float(freedom), level), level)


def over_seeds_and_photos(apart: np.ndarray, *, level: float = LEVEL) -> Difference:
    """The mean of differences [seeds, photos], with an interval for other seeds and other photos together.

    Both factors are random and crossed, with one number a cell: the variance of the mean is (MS_seeds + MS_photos -
    MS_rest) / cells, with Satterthwaite's degrees of freedom (1946). Clark (1973) and Judd, Westfall & Kenny (2012)
    show why one factor alone gives too narrow intervals. A negative part of the variance counts as 0. Raises
    DataError for fewer than two seeds or two photos.

    >>> apart = np.array([[1.0, 5.0, 3.0], [2.0, 6.0, 4.0]])
    >>> found = over_seeds_and_photos(apart)
    >>> found.value, [round(end, 1) for end in found.interval]
    (3.5, [-0.8, 7.8])
    """
    if apart.ndim != 2 or min(apart.shape) < 2:
        raise DataError(f"differences of shape {list(apart.shape)}: two seeds and two photos are the least")
    seeds, photos = apart.shape
    mean = float(apart.mean())
    by_seed, by_photo = apart.mean(axis=1, keepdims=True), apart.mean(axis=0, keepdims=True)
    sums = {  # of squares, and degrees of freedom
        "seeds": (photos * float(((by_seed - mean) ** 2).sum()), seeds - 1),
        "photos": (seeds * float(((by_photo - mean) ** 2).sum()), photos - 1),
        "rest": (float(((apart - by_seed - by_photo + mean) ** 2).sum()), (seeds - 1) * (photos - 1)),
    }
    squares = {part: total / freedom for part, (total, freedom) in sums.items()}
    above = [part for part in ("seeds", "photos") if squares[part] > squares["rest"]]
    parts = [*above, *(["rest"] if len(above) != 1 else [])]
    variance = sum(squares[part] for part in above) - (len(above) - 1) * squares["rest"]
    if variance == 0.0:
        return Difference(mean, Interval(mean, mean), level)
    freedom = variance**2 / sum(squares[part] ** 2 / sums[part][1] for part in parts)
    return Difference(mean, _t_interval(mean, np.sqrt(variance / apart.size), float(freedom), level), level)


def compare(
    one: Ranks,
    other: Ranks,
    owner: Tensor | np.ndarray,
    *,
    folds: int = 1,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Difference]:
    """Differences of two models on the same images and captions, for each recall (`i2t R@1`, …) and `rsum`.

    The interval draws the same images for both. `p` is of a permutation test, which exchanges the two models' answers
    to an image and its captions at random. Raises DataError for ranks of other items.
    """
    if (len(one.i2t), len(one.t2i)) != (len(other.i2t), len(other.t2i)):
        sizes = [(len(ranks.i2t), len(ranks.t2i)) for ranks in (one, other)]
        raise DataError(f"models are compared on the same items; (images, captions) are {sizes[0]} and {sizes[1]}")
    drawn = [drawn_recalls(ranks, owner, folds=folds, draws=draws, seed=seed) for ranks in (one, other)]
    intervals = percentiles(drawn[0] - drawn[1], level)
    pairs = list(zip(hits_by_fold(one, owner, folds), hits_by_fold(other, owner, folds), strict=True))
    values = np.mean([_shift(np.ones((1, len(first.captions))), first, second) for first, second in pairs], axis=0)[0]
    chances = _permutation(pairs, values, draws=draws, seed=seed)
    return {
        name: Difference(float(value), interval, level, float(chance))
        for name, value, interval, chance in zip((*NAMES, "rsum"), values, intervals, chances, strict=True)
    }


def _permutation(pairs: list[tuple[Hits, Hits]], values: np.ndarray, *, draws: int, seed: int) -> np.ndarray:
    """p of each number, [7]: the share of exchanges with a difference as large, the observed one included."""
    generator = np.random.default_rng(seed)
    size = max(SIGN_CELLS // max(len(first.captions) for first, _ in pairs), 1)
    reached = np.zeros(len(values))
    for start in range(0, draws, size):
        count = min(size, draws - start)
        parts = [
            _shift(generator.choice([-1.0, 1.0], size=(count, len(first.captions))), first, second)
            for first, second in pairs
        ]
        # 1e-9, because sums of the same numbers in another order differ in the last digits.
        reached += (np.abs(np.mean(parts, axis=0)) >= np.abs(values) - 1e-9).sum(axis=0)
    return (reached + 1) / (draws + 1)


def _shift(signs: np.ndarray, first: Hits, second: Hits) -> np.ndarray:
    """Differences of the recalls [draws, 7] with the models' answers exchanged where a sign [draws, G] is -1."""
    apart, half = signs @ (first.hits - second.hits), len(NAMES) // 2
    counts = np.array([len(first.captions)] * half + [first.captions.sum()] * half)
    return with_rsum(100.0 * apart / counts)


def _t_interval(mean: float, error: float, freedom: float, level: float) -> Interval:
    if not 0 < level < 1:
        raise ConfigError(f"level={level}: expected a share between 0 and 1, as 0.95")
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * float(error)
    return Interval(mean - half, mean + half)


def _numbers(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise DataError(f"{values}: expected one finite number a run, and one run at least")
    return array
