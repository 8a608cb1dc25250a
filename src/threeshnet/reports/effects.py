"""A difference between two levels of a study, with its intervals and what may be said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from threeshnet.errors import DataError, one_of
from threeshnet.metrics.comparisons import Difference, Spread

ON_THESE, NOTHING = "difference on these photos", "–"


class Signed(float):
    """A difference, written with its sign and one decimal.

    >>> str(Signed(2.04)), str(Signed(-0.12))
    ('+2.0', '-0.1')
    """

    def __str__(self) -> str:
        return f"{self:+.1f}"


def interval_text(over_seeds: Difference | None) -> str:
    """The 95% confidence interval as tables and pages show it."""
    return NOTHING if over_seeds is None else f"[{over_seeds.interval.low:+.1f}, {over_seeds.interval.high:+.1f}]"


def verdict_of(over_seeds: Difference | None, with_photos: Difference | None) -> str:
    """A `difference` needs both intervals to exclude zero; with the interval over seeds alone it is ON_THESE photos."""
    if over_seeds is None:
        return "one seed"
    if not over_seeds.interval.excludes(0.0):
        return over_seeds.verdict
    return over_seeds.verdict if with_photos is not None and with_photos.interval.excludes(0.0) else ON_THESE


@dataclass(frozen=True)
class Effect:
    """One level minus another, paired by seed."""

    by_seed: Mapping[str, Signed]
    other: Spread  # the other level, over the seeds that both have
    over_seeds: Difference | None  # None with fewer than two seeds in both
    with_photos: Difference | None  # None without rsum by photo, or for another column than rsum

    @property
    def value(self) -> Signed:
        return Signed(sum(self.by_seed.values()) / len(self.by_seed))

    @property
    def interval(self) -> str:
        return interval_text(self.over_seeds)

    @property
    def interval_with_photos(self) -> str:
        return interval_text(self.with_photos)

    @property
    def verdict(self) -> str:
        return verdict_of(self.over_seeds, self.with_photos)

    @property
    def each(self) -> str:
        """The difference of every seed: `+1.0, -2.0 and +3.0`."""
        *first, last = map(str, self.by_seed.values())
        return f"{', '.join(first)} and {last}" if first else last

    def of_seed(self, seed: int) -> Signed:
        if str(seed) not in self.by_seed:
            raise DataError(one_of("seed", seed, self.by_seed))
        return self.by_seed[str(seed)]

    def __str__(self) -> str:
        """The value, its intervals and the verdict, ready for a sentence."""
        if self.over_seeds is None:
            return f"{self.value} (one seed)"
        photos = f", {self.interval_with_photos} over seeds and photos" if self.with_photos else ""
        return f"{self.value} ({self.interval} over seeds{photos}: {self.verdict})"
