"""The committed rows of a study: its settings, the levels in each, and how each level differs from its baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from threeshnet.errors import DataError, one_of
from threeshnet.metrics.comparisons import Spread, difference, over_seeds, over_seeds_and_photos
from threeshnet.reports.effects import NOTHING, Effect, Signed
from threeshnet.studies.by_photo import BY_PHOTO, ByPhoto, apart_by_photo, read_by_photo
from threeshnet.studies.columns import NUMBERS, RESULTS, other_factors
from threeshnet.studies.study import Study

Names = tuple[str, ...]  # a level of every factor
PERTURBED = ", perturbed: "  # as `named_protocol` writes it


@dataclass(frozen=True, eq=False)
class Column:
    """One number of a level: `rsum` or a recall."""

    level: Level
    name: str

    @property
    def values(self) -> dict[str, float]:
        """By seed; empty cells are left out."""
        cells = zip(self.level.rows["seed"], self.level.rows[self.name], strict=True)
        return {seed: float(cell) for seed, cell in cells if cell != ""}

    @property
    def spread(self) -> Spread:
        return over_seeds(list(self.values.values()))

    @property
    def mean(self) -> str:
        return f"{self.spread.mean:.1f}"

    @property
    def deviation(self) -> str:
        """Of the sample; – for one seed."""
        deviation = self.spread.deviation
        return NOTHING if deviation is None else f"{deviation:.1f}"

    @property
    def difference(self) -> Signed:
        return self.effect().value

    def effect(self, other: Level | None = None) -> Effect:
        """Against another level, or the baseline.  Raises DataError where no seed is in both."""
        effect = self.level.effect_on(self.name, other or self.level.base)
        if effect is None:
            raise DataError(f"{self.level}: no baseline with its seeds {self.level.seeds}")
        return effect

    def seed(self, number: int) -> str:
        if str(number) not in self.values:
            raise DataError(one_of(f"{self.level}: seed", number, self.values))
        return f"{self.values[str(number)]:.1f}"

    def __str__(self) -> str:
        """`282.7 ± 3.7`: mean and standard deviation of the sample."""
        return self.mean + ("" if self.spread.deviation is None else f" ± {self.deviation}")


@dataclass(frozen=True, eq=False)
class Level:
    """The runs of one combination of levels in one setting, by seed."""

    setting: Setting
    names: Names
    rows: pd.DataFrame

    @property
    def base(self) -> Level | None:
        """The level that this one is compared with; itself for a baseline, None where it was not run."""
        return self.setting.levels.get(self.setting.results.base(self.names))

    @property
    def named(self) -> dict[str, str]:
        """The level of each factor."""
        return dict(zip(self.setting.results.factors, self.names, strict=True))

    @property
    def is_base(self) -> bool:
        return self.names == self.setting.results.base(self.names)

    @property
    def seeds(self) -> str:
        return " ".join(self.rows["seed"])

    @property
    def effect(self) -> Effect:
        """Of rsum, against the baseline."""
        return self.rsum.effect()

    @property
    def verdict(self) -> str:
        return self.effect.verdict

    def against(self, other: Level | None = None, **levels: str) -> Effect:
        """Of rsum, against another level of the setting."""
        return self.rsum.effect(other or self.setting.level(**levels))

    def effect_on(self, column: str, other: Level | None) -> Effect | None:
        """Paired by seed; None where no seed is in both."""
        one, two = (side.rows.set_index("seed", drop=False) for side in (self, other or self))
        shared = sorted(one.index.intersection(two.index), key=int) if other is not None else []
        if not shared:
            return None
        first, second = ([float(cell) for cell in side.loc[shared, column]] for side in (one, two))
        by_seed = {seed: Signed(a - b) for seed, a, b in zip(shared, first, second, strict=True)}
        seeds = difference(first, second, paired=True) if len(shared) > 1 else None
        photos = None
        if column == "rsum" and other is not self:
            pairs = [(dict(one.loc[seed]), dict(two.loc[seed])) for seed in shared]
            photos = apart_by_photo(pairs, self.setting.results.by_photo)
        return Effect(by_seed, over_seeds(second), seeds, None if photos is None else over_seeds_and_photos(photos))

    def __getattr__(self, name: str) -> Column:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in (*NUMBERS, "dev_rsum", "minutes"):
            raise DataError(one_of("column", name, (*NUMBERS, "dev_rsum", "minutes")))
        return Column(self, name)

    def __str__(self) -> str:
        return "+".join(self.names) or "all"


@dataclass(frozen=True, eq=False)
class Setting:
    """All rows of one experiment in one setting; rows of two settings are never averaged."""

    results: Results
    experiment: str
    name: str
    rows: pd.DataFrame

    @cached_property
    def levels(self) -> dict[Names, Level]:
        """In the study's order, unknown levels last, each by seed.  Raises DataError for a seed twice."""
        cells = self.rows.reindex(columns=list(self.results.factors), fill_value="")
        keys = [tuple(cells.loc[row]) for row in cells.index]
        levels: dict[Names, Level] = {}
        for names in sorted(set(keys), key=self.results.order):
            own: Any = self.rows[[key == names for key in keys]]
            rows = own.sort_values("seed", key=lambda seeds: seeds.astype(int))
            levels[names] = Level(self, names, rows)
            if rows["seed"].duplicated().any():
                seeds = levels[names].seeds
                raise DataError(f"{RESULTS}: {self.experiment}, {levels[names]}: seeds {seeds}, one of them twice")
        return levels

    def level(self, **levels: str) -> Level:
        """The one level of these names.  Raises DataError with those that exist."""
        problems = [one_of("factor", name, self.results.factors) for name in levels if name not in self.results.factors]
        wanted = levels.items()
        fitting = [level for level in self.levels.values() if wanted <= level.named.items()]
        if problems or len(fitting) != 1:
            text = ", ".join(f"{factor}={name}" for factor, name in wanted) or "no level named"
            there = ", ".join(map(str, self.levels.values()))
            raise DataError("; ".join(problems) or f"{text}: {len(fitting)} levels of {self}; there are: {there}")
        return fitting[0]

    @property
    def facts(self) -> str:
        """What is true of all rows, said once."""
        rows = self.rows.to_dict("records")
        data = [f"{r['data']}, split `{r['split']}`, {r['images']} images, {r['captions']} captions" for r in rows]
        said = [" and ".join(dict.fromkeys(data))]
        for name in ("protocol", "selection", "batch", "epochs", "machine"):
            values = sorted({row[name].partition(PERTURBED)[0] for row in rows if row[name]})
            said.append(f"{name} {' and '.join(values)}")
        return f"{'; '.join(said)}."

    @property
    def with_photos(self) -> bool:
        """Whether any level has an interval over seeds and photos."""
        return any(e.with_photos for level in self.levels.values() if (e := level.effect_on("rsum", level.base)))

    def __str__(self) -> str:
        return f"{self.experiment}, setting {self.name}"


@dataclass(frozen=True, eq=False)
class Results:
    """A study with its rows."""

    factors: Mapping[str, Sequence[str]]  # with their levels in order
    baseline: Mapping[str, str]  # a factor without one is compared within each of its levels
    rows: pd.DataFrame  # of text, as the CSV file has it
    by_photo: ByPhoto = field(default_factory=dict)
    reference: Mapping[str, float] = field(default_factory=dict)  # rsum of others, drawn beside the runs

    @cached_property
    def settings(self) -> list[Setting]:
        groups: Any = self.rows.groupby(["experiment", "setting"]) if len(self.rows) else []
        return [Setting(self, str(experiment), str(name), rows) for (experiment, name), rows in groups]

    def setting(self, experiment: str, name: str | None = None) -> Setting:
        """Raises DataError with those that have rows."""
        matches = [each for each in self.settings if each.experiment == experiment and name in (None, each.name)]
        if len(matches) != 1:
            there = "; ".join(map(str, self.settings))
            raise DataError(f"{experiment!r}, setting {name!r}: {len(matches)} settings have rows; there are: {there}")
        return matches[0]

    def order(self, names: Names) -> list[tuple[int, str]]:
        """A key to sort levels by: in the study's order, unknown levels last."""
        pairs = zip(names, map(list, self.factors.values()), strict=True)
        return [(ordered.index(name) if name in ordered else len(ordered), name) for name, ordered in pairs]

    def base(self, names: Names) -> Names:
        """The levels that a combination of levels is compared with."""
        return tuple(self.baseline.get(factor, name) for factor, name in zip(self.factors, names, strict=True))

    def with_baseline(self, names: Sequence[str]) -> Results:
        """The same rows, compared with another level."""
        return replace(self, baseline=dict(zip(self.factors, names, strict=False)))


def read_results(study: Study, folder: Path) -> Results:
    """The committed rows of a study in `folder`; none where there is no file.  Raises DataError for a damaged one."""
    file = folder / RESULTS
    try:
        rows = pd.read_csv(file, dtype=str, keep_default_na=False) if file.is_file() else None
    except ValueError as error:  # pandas' own and those of the encoding are of this kind
        raise DataError(f"{file} cannot be read ({error}); collect the runs again: make collect") from error
    return results_of(study, rows, read_by_photo(folder / BY_PHOTO))


def results_of(study: Study, rows: pd.DataFrame | None = None, by_photo: ByPhoto | None = None) -> Results:
    """The study's factors with their levels in order, derived ones last, and other factors of the rows."""
    levels = {factor: [level.name for level in of_factor] for factor, of_factor in study.factors.items()}
    for name, rule in study.derived.items():
        levels[rule.factor].append(name)
    rows = pd.DataFrame() if rows is None else rows
    factors = levels | {factor: [] for factor in other_factors(rows.columns, list(levels))}
    return Results(factors, study.baseline_levels, rows, by_photo or {}, study.reference)
