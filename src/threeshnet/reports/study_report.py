"""The tables of a study's README, from its rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from threeshnet.metrics.comparisons import Difference, difference, over_seeds, over_seeds_and_photos
from threeshnet.reports.markdown import table
from threeshnet.studies.by_photo import ByPhoto, apart_by_photo
from threeshnet.studies.columns import NUMBERS, Row, by_level, groups

PART = "results"  # name of the marks between which the tables stand
FIGURE = "figure.png"
Levels = Mapping[tuple[str, ...], Sequence[Row]]
PERTURBED = ", perturbed: "  # as `named_protocol` writes it
HEADER = ("seeds", "i2t R@1", "R@5", "R@10", "t2i R@1", "R@5", "R@10", "rsum", "rsum against the baseline")
WITH_PHOTOS = "over seeds and photos"
ON_THESE, NOTHING = "difference on these photos", "–"
HOW_TO_READ = (
    "*Tables*: mean ± sample standard deviation over seeds; differences are paired by seed, with the 95% interval over "
    "seeds and, where it is known, over seeds and photos. A *difference* needs both; *on these photos* is over seeds "
    "alone. *Figure*: on the left a stroke a run and a dot at the mean, the baseline in red; on the right the "
    "differences, a thin line over seeds and a thick one over seeds and photos, cut where one would be far wider than "
    "the others."
)


@dataclass(frozen=True)
class Comparison:
    """What a report compares: the factors with their levels in order, and the levels to compare with."""

    factors: Mapping[str, Sequence[str]]
    baseline: Mapping[str, str]  # a factor without one is compared within each of its levels
    by_photo: ByPhoto = field(default_factory=dict)  # what photos brought to the runs that have it
    reference: Mapping[str, float] = field(default_factory=dict)  # rsum of others, drawn beside the runs

    def base(self, names: Sequence[str]) -> tuple[str, ...]:
        """The levels that a combination of levels is compared with."""
        return tuple(self.baseline.get(factor, name) for factor, name in zip(self.factors, names, strict=True))


def tables(rows: Sequence[Row], comparison: Comparison) -> str:
    """A table for every experiment and setting."""
    if not rows:
        return "*No results yet.*"
    parts = []
    for (experiment, setting), found in groups(rows).items():
        parts += [f"**{experiment}, setting `{setting}`.** {_facts(found)}", _table(found, comparison)]
    dashed = "".join(f" Dashed: {said}, {rsum:.1f}." for said, rsum in comparison.reference.items())
    parts += [HOW_TO_READ + dashed, f"![rsum of every run, and differences from the baseline]({FIGURE})"]
    return "\n\n".join(parts)


def _facts(rows: Sequence[Row]) -> str:
    """What is true of all rows, said once."""
    places = dict.fromkeys(
        f"{row['data']}, split `{row['split']}`, {row['images']} images, {row['captions']} captions" for row in rows
    )
    said = [" and ".join(places)]
    for name in ("protocol", "selection", "batch", "epochs", "machine"):
        # What was perturbed is what levels are called after.
        values = sorted({row[name].partition(PERTURBED)[0] for row in rows if row[name]})
        said.append(f"{name} {' and '.join(values)}")
    return f"{'; '.join(said)}."


def _table(rows: Sequence[Row], comparison: Comparison) -> str:
    levels = by_level(rows, comparison.factors)
    over_both = [against_with_photos(names, levels, comparison) for names in levels]
    lines = []
    for (names, found), with_photos in zip(levels.items(), over_both, strict=True):
        numbers = [_spread(values(found, name)) for name in NUMBERS]
        seeds = " ".join(row["seed"] for row in found)
        photos = [ends(with_photos)] if any(over_both) else []
        apart = against(names, levels, comparison, "rsum")
        said = "baseline" if names == comparison.base(names) else NOTHING
        if apart is not None and said != "baseline":
            said = f"{apart.value:+.1f} {ends(apart)}, {verdict(apart, with_photos)}"
        lines.append([*(names or ["all"]), seeds, *numbers, said, *photos])
    header = [*(comparison.factors or ["runs"]), *HEADER, *([WITH_PHOTOS] if any(over_both) else [])]
    return table(header, lines)


def ends(found: Difference | None) -> str:
    """An interval as the tables show it."""
    return NOTHING if found is None else f"[{found.interval.low:+.1f}, {found.interval.high:+.1f}]"


def verdict(found: Difference, with_photos: Difference | None) -> str:
    """What both intervals say; where only the first says so, or is known, the difference is one on these photos."""
    if not found.interval.excludes(0.0):
        return found.verdict
    return found.verdict if with_photos is not None and with_photos.interval.excludes(0.0) else ON_THESE


def against(names: tuple[str, ...], levels: Levels, comparison: Comparison, column: str) -> Difference | None:
    """The paired difference from the baseline over the seeds that both have; None with fewer than two of them."""
    pairs = pairs_of(names, levels, comparison)
    if len(pairs) < 2:
        return None
    one, other = ([float(row[column]) for row in side] for side in zip(*pairs, strict=True))
    return difference(one, other, paired=True)


def against_with_photos(names: tuple[str, ...], levels: Levels, comparison: Comparison) -> Difference | None:
    """That of rsum with an interval over seeds and photos; None of the baseline, and of runs that lack theirs."""
    if names == comparison.base(names):
        return None
    apart = apart_by_photo(pairs_of(names, levels, comparison), comparison.by_photo)
    return None if apart is None else over_seeds_and_photos(apart)


def pairs_of(names: tuple[str, ...], levels: Levels, comparison: Comparison) -> list[tuple[Row, Row]]:
    """Rows of a level and of its baseline with the same seed, by seed."""
    one, other = ({row["seed"]: row for row in levels.get(each, ())} for each in (names, comparison.base(names)))
    return [(one[seed], other[seed]) for seed in sorted(one.keys() & other.keys(), key=int)]


def values(rows: Sequence[Row], column: str) -> list[float]:
    return [float(row[column]) for row in rows if row[column] != ""]


def _spread(numbers: Sequence[float]) -> str:
    found = over_seeds(numbers)
    return f"{found.mean:.1f}" + ("" if found.deviation is None else f" ± {found.deviation:.1f}")
