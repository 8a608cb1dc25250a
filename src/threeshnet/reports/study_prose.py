"""The numbers in the prose of a study's README, each held to the rows by a mark behind it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from threeshnet.errors import DataError, Problems
from threeshnet.metrics.comparisons import over_seeds
from threeshnet.reports.study_report import Comparison, Levels, against, against_with_photos, pairs_of, values
from threeshnet.studies.by_photo import BY_PHOTO
from threeshnet.studies.columns import NUMBERS, Row, by_level, groups, label

# 12.3<!-- value: KEY -->, and KEY as FORM says
VALUE = re.compile(r"([+\-\N{MINUS SIGN}]?\d+(?:\.\d+)?)\s?<!-- value: ([^>]*?) -->")
MARK = re.compile(r"(\S*)\s?(<!--\s*value\b[^>]*>)")  # whatever was meant as one
HINT = (
    "Correct the text, or collect the runs that it speaks of. Runs of your own stand beside those of the text when "
    "they are collected under another name: make collect STUDY=<study> ARGS=setting_name=<name>."
)
FORM = "[study: ]experiment[/setting], level[+level][ less level[+level]], column[, statistic]"
LESS, OF_SEED = " less ", re.compile(r"(difference )?seed (\d+)")
STATISTICS = ("mean", "deviation", "difference", "low", "high", "low_with_photos", "high_with_photos")
STATISTICS += ("seed <number>", "difference seed <number>")

Numbers = tuple[Sequence[Row], Comparison]  # of a study


def no_other(study: str) -> Numbers:
    """Where a text may speak of its own study alone."""
    raise DataError(f"the rows of {study!r} are not at hand")


def check_prose(
    text: str, rows: Sequence[Row], comparison: Comparison, other_study: Callable[[str], Numbers] = no_other
) -> int:
    """How many numbers of the prose were compared.  Raises DataError with those that the rows say otherwise.

    `other_study` gives the rows of another study, which a mark may name; it may raise DataError.
    """
    problems = Problems("numbers in README.md")
    found = VALUE.findall(text)
    problems.extend(
        f"{before}{mark}: a number stands right before its mark, as in 12.3<!-- value: experiment, level, rsum -->"
        for before, mark in MARK.findall(text)
        if not VALUE.search(before + mark)
    )
    for written, key in found:
        try:
            value = value_of(key, rows, comparison, other_study)
        except DataError as error:
            problems.add(f"{written}, `{key}`: {error}")
            continue
        digits = len(written.partition(".")[2])
        said = written.replace("\N{MINUS SIGN}", "-").lstrip("+")
        if f"{value:.{digits}f}" != said:
            problems.add(f"{written}, `{key}`: the rows say {value:.{digits}f}")
    problems.raise_as(DataError, HINT)
    return len(found)


def value_of(
    key: str, rows: Sequence[Row], comparison: Comparison, other_study: Callable[[str], Numbers] = no_other
) -> float:
    """The number that a key, of the form FORM, means.

    Differences are from the baseline, or from the level after `less`; of one seed with `seed 1`, `difference seed 1`.
    """
    study, named, of_study = key.partition(":")
    if named:
        return value_of(of_study, *other_study(study.strip()))
    parts = [part.strip() for part in key.split(",")]
    if len(parts) not in (3, 4):
        raise DataError(f"write {FORM}")
    place, (names, _, other), column, statistic = parts[0], parts[1].partition(LESS), parts[2], (*parts, "mean")[3]
    experiment, _, setting = place.partition("/")
    chosen = [found for (one, named), found in groups(rows).items() if one == experiment and setting in ("", named)]
    if len(chosen) != 1:
        raise DataError(f"{len(chosen)} settings of {experiment!r} have rows; write experiment/setting")
    levels = by_level(chosen[0], comparison.factors)
    known = {label(each): each for each in levels}
    missing = [name for name in (names, other) if name and name not in known]
    if missing or column not in (*NUMBERS, "dev_rsum", "minutes"):
        raise DataError(
            f"no rows of {(missing or [names])[0]!r}, or no column {column!r}; there are: {', '.join(known)}"
        )
    if other:
        comparison = replace(comparison, baseline=dict(zip(comparison.factors, known[other], strict=True)))
    number = _statistic(
        "difference" if other and len(parts) == 3 else statistic, known[names], levels, comparison, column
    )
    if number is None:
        raise DataError(f"needs two seeds or more; an interval with photos is of rsum, of runs in {BY_PHOTO}")
    return float(number)


def _statistic(
    statistic: str, names: tuple[str, ...], levels: Levels, comparison: Comparison, column: str
) -> float | None:
    """One of STATISTICS; None where there are too few runs for it."""
    of_seed = OF_SEED.fullmatch(statistic)
    if of_seed:
        return _of_seed(
            of_seed[2], levels[names], None if of_seed[1] is None else pairs_of(names, levels, comparison), column
        )
    if statistic not in STATISTICS:
        raise DataError(f"no statistic {statistic!r}; there are: {', '.join(STATISTICS)}")
    if statistic in ("mean", "deviation"):
        return getattr(over_seeds(values(levels[names], column)), statistic)
    return _of_difference(statistic, names, levels, comparison, column)


def _of_seed(seed: str, rows: Sequence[Row], pairs: Sequence[tuple[Row, Row]] | None, column: str) -> float:
    """The number of one run, or with `pairs` what it differs by from the other of its pair."""
    found = [float(row[column]) for row in rows if row["seed"] == seed]
    if pairs is not None:
        found = [float(one[column]) - float(other[column]) for one, other in pairs if one["seed"] == seed]
    if not found:
        raise DataError(f"no row of seed {seed}; there are: {', '.join(row['seed'] for row in rows)}")
    return found[0]


def _of_difference(
    statistic: str, names: tuple[str, ...], levels: Levels, comparison: Comparison, column: str
) -> float | None:
    end, with_photos, _ = statistic.partition("_with_photos")
    if with_photos:
        found = against_with_photos(names, levels, comparison) if column == "rsum" else None
    else:
        found = against(names, levels, comparison, column)
    if found is None:
        return None
    return found.value if end == "difference" else getattr(found.interval, end)
