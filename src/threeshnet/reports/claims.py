"""What is claimed of the method, and what the rows of our own studies say about it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from threeshnet.errors import ConfigError, Problems, one_of
from threeshnet.reports.effects import NOTHING, ON_THESE, Effect
from threeshnet.reports.results import Results, results_of
from threeshnet.reports.tables import WITH_PHOTOS, table
from threeshnet.studies.study import STUDIES, load_study

CLAIMS = "claims.yaml"
SIGNS = {"higher": 1, "lower": -1}
HEADER = ("claim", "source", "tested here by", "rsum against the baseline, 95% over seeds", WITH_PHOTOS, "verdict")
# By whether the sign is the claim's, and whether the interval over photos excludes zero too.
VERDICTS = {
    (True, True): "holds here",
    (True, False): "holds for these photos",
    (False, True): "**the other way round here**",
    (False, False): "the other way round for these photos",
}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Test(Strict):
    """A level of a study, and on which side of the baseline, or of the level `against`, the claim puts it."""

    study: str
    level: str  # as the report names it: the levels of all factors, joined by +
    expected: Literal["higher", "lower"]
    against: str | None = None
    note: str | None = None


class Ratios(Strict):
    """A benchmark: how many times as much, by size of the gallery."""

    by: str
    unit: str
    file: str  # CSV with images, times, low, high and scoring
    note: str | None = None


class Claim(Strict):
    """A sentence, its source, and how it is tested."""

    claim: str
    source: str
    tests: tuple[Test, ...] = ()
    ratios: Ratios | None = None


def read_claims(file: Path) -> list[Claim]:
    """Raises ConfigError with everything that is wrong in the file."""
    problems = Problems(str(file))
    content: Any = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    try:
        claims = TypeAdapter(list[Claim]).validate_python(content)
    except ValidationError as error:
        for each in error.errors():
            number, *key = each["loc"] or ("all of it",)
            entry = content[number] if isinstance(number, int) else None
            name = entry.get("claim") if isinstance(entry, dict) else number
            problems.add(f"{name}: {'.'.join(map(str, key))}: {each['msg']} (given: {each['input']!r})")
        problems.raise_as(ConfigError)
        raise
    levels_of = {each.stem: level_names(each.stem) for each in STUDIES.glob("*.yaml")}
    for claim in claims:
        if bool(claim.tests) == bool(claim.ratios):
            problems.add(f"{claim.claim}: give either `tests` or `ratios`")
        for test in claim.tests:
            problems.extend(f"{claim.claim}: {fault}" for fault in _unknown(test, levels_of))
    problems.raise_as(ConfigError)
    return claims


def level_names(study: str) -> list[str]:
    """Every combination of levels as the report names it."""
    return ["+".join(names) or "all" for names in itertools.product(*results_of(load_study(study)).factors.values())]


def _unknown(test: Test, levels_of: Mapping[str, Collection[str]]) -> Iterator[str]:
    if test.study not in levels_of:
        yield one_of("study", test.study, levels_of)
        return
    for level in filter(None, (test.level, test.against)):
        if level not in levels_of[test.study]:
            yield one_of(f"level of {test.study}", level, levels_of[test.study])


def claims_table(folder: Path, results: Callable[[str], Results], with_rows: Collection[str]) -> str:
    """A line for every claim, test, experiment and setting of `folder`'s claims.yaml."""
    lines = []
    for claim in read_claims(folder / CLAIMS):
        for test in claim.tests:
            of = results(test.study) if test.study in with_rows else results_of(load_study(test.study))
            lines += [[claim.claim, claim.source, *line] for line in _tested(test, of)]
        if claim.ratios:
            lines.append([claim.claim, claim.source, *_measured(claim.ratios, folder)])
    return table(HEADER, lines)


def _tested(test: Test, results: Results) -> Iterator[tuple[str, ...]]:
    """How it was tested, the effect, its interval with photos and the verdict; one line where nothing was run."""
    said = f"`{named(test.level, results)}` {test.expected}"
    said += f" than `{named(test.against, results)}`" if test.against else ""
    where = f"[{test.study}]({test.study}/README.md), {said}" + (f" ({test.note})" if test.note else "")
    compared = results.with_baseline(test.against.split("+")) if test.against else results
    levels = [level for setting in compared.settings for level in setting.levels.values() if str(level) == test.level]
    for level in levels:
        setting, effect = level.setting, level.effect_on("rsum", level.base)
        description = f"{setting.experiment}, setting `{setting.name}`, {len(level.rows)} seeds"
        yield f"{where}, {description}", *effect_cells(effect, test.expected)
    if not levels:
        command = f"make sweep STUDY={test.study} EXP=<experiment>"
        yield f"`{test.study}`, {said}", NOTHING, NOTHING, f"not run yet: `{command}`"


def named(level: str, results: Results) -> str:
    """A level with its factors, `without=guidance`: the level alone would not say that it is what is left out."""
    levels = level.split("+")
    if len(levels) != len(results.factors):
        return level
    return ", ".join(f"{factor}={name}" for factor, name in zip(results.factors, levels, strict=True))


def effect_cells(effect: Effect | None, expected: str) -> tuple[str, str, str]:
    """The effect, its interval over seeds and photos, and what both mean for the claim."""
    if effect is None or effect.over_seeds is None:
        return NOTHING, NOTHING, "fewer than two seeds of both"
    meant = effect.verdict
    if effect.over_seeds.interval.excludes(0.0):
        meant = VERDICTS[effect.value * SIGNS[expected] > 0, meant != ON_THESE]
    return f"{effect.value} {effect.interval}", effect.interval_with_photos, meant


def _measured(ratios: Ratios, folder: Path) -> tuple[str, str, str, str]:
    """A ratio holds where the lowest measurement is above 1 for every size."""
    rows: Any = pd.read_csv(folder / ratios.file)
    sizes = ", ".join(f"{images:,}" for images in rows["images"])
    times = ", ".join(f"{row.times:g} ({row.low:g} to {row.high:g})" for row in rows.itertuples())
    scoring = ", ".join(f"{value:g}" for value in rows["scoring"])
    holds = "holds here" if (rows["low"] > 1).all() else "no difference shown"
    verdict = holds + (f"; {ratios.note}" if ratios.note else "")
    return ratios.by, f"{ratios.unit} at {sizes} images: {times}; scoring alone {scoring}", NOTHING, verdict
