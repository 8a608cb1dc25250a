"""What is claimed of the method, and what the rows of our own studies say of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from threeshnet.errors import ConfigError, Problems, one_of
from threeshnet.metrics.comparisons import Difference
from threeshnet.reports.markdown import table
from threeshnet.reports.study_report import (
    NOTHING,
    ON_THESE,
    WITH_PHOTOS,
    Comparison,
    against,
    against_with_photos,
    ends,
    verdict,
)
from threeshnet.studies.columns import NUMBERS, Row, by_level, groups, label

KEYS = ("claim", "source", "tests", "see")
OF_TEST = ("study", "level", "expected")
AGAINST = "against"  # of a test, when it is not the study's baseline
NOTE = "note"  # of a test: what a reader has to know beside its line
OF_SEE = ("by", "effect", "verdict")
SIGNS = {"higher": 1, "lower": -1}
HEADER = ("claim", "source", "tested here by", "rsum against the baseline, 95% over seeds", WITH_PHOTOS, "verdict")
# By whether the sign is the claim's, and whether other photos are meant too.
VERDICTS = {
    (True, True): "holds here",
    (True, False): "holds for these photos",
    (False, True): "**the other way round here**",
    (False, False): "the other way round for these photos",
}
OF_A_TABLE = ("data", "protocol")  # what a published table is of: numbers of two protocols share none
FACTS = ("model", "features", "setting")  # of a published row
RECALLS = tuple(name for name in NUMBERS if name != "rsum")
PUBLISHED_HEADER = (*FACTS, "i2t R@1", "R@5", "R@10", "t2i R@1", "R@5", "R@10", "rsum", "status", "source")
RECALLED, SET_ASIDE = "recalled", "–"  # the status of a row that nobody has seen, and what stands for its numbers
UNCHECKED, UNCHECKED_SAYS = "†", "Taken over as it was read: without all six recalls the sum cannot be recomputed."
Studies = Mapping[str, tuple[Sequence[Row], Comparison]]  # those that have rows


@dataclass(frozen=True)
class Evidence:
    """A level of a study, and on which side of the baseline, or of the level `against`, the claim puts it."""

    study: str
    level: str  # as the report names it: the levels of all factors, joined by +
    expected: str
    against: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Claim:
    """A sentence, where it stands, and how it is tested: by levels of studies, or in another experiment."""

    claim: str
    source: str
    tests: tuple[Evidence, ...] = ()
    see: Mapping[str, str] = field(default_factory=dict)  # {by, effect, verdict}, as they stand


def parse_claims(content: Sequence[Mapping[str, Any]], known: Mapping[str, Collection[str]]) -> list[Claim]:
    """Claims from their yaml; `known` are the studies' levels.  Raises ConfigError with all that is wrong in it."""
    problems = Problems("experiments/claims.yaml")
    found = []
    for given in content:
        name = str(given.get("claim"))
        problems.extend(f"{name}: {one_of('key', key, KEYS)}" for key in given if key not in KEYS)
        problems.extend(f"{name}: {key} is missing" for key in ("claim", "source") if not given.get(key))
        tests = [dict(test) for test in given.get("tests") or ()]
        wrong = [
            f"{name}: a test says {', '.join(OF_TEST)}, not {test}"
            for test in tests
            if set(test) - {AGAINST, NOTE} != set(OF_TEST)
        ]
        problems.extend(wrong)
        if bool(tests) == bool(given.get("see")):
            problems.add(f"{name}: give `tests`, or `see` for another experiment")
        if given.get("see") and set(given["see"]) != set(OF_SEE):
            problems.add(f"{name}: `see` says {', '.join(OF_SEE)}, not {given['see']}")
        made = () if wrong else tuple(Evidence(**{key: str(value) for key, value in test.items()}) for test in tests)
        problems.extend(f"{name}: {one_of('study', test.study, known)}" for test in made if test.study not in known)
        problems.extend(
            f"{name}: {one_of(f'level of {test.study}', level, known[test.study])}"
            for test in made
            for level in filter(None, (test.level, test.against))
            if level not in known.get(test.study, [level])
        )
        problems.extend(
            f"{name}: {one_of('expected', test.expected, SIGNS)}" for test in made if test.expected not in SIGNS
        )
        found.append(Claim(name, str(given.get("source")), made, given.get("see") or {}))
    problems.raise_as(ConfigError)
    return found


def claims_table(claims: Sequence[Claim], studies: Studies) -> str:
    """A line for every claim, test, experiment and setting."""
    lines = []
    for claim in claims:
        evidence = [line for test in claim.tests for line in _evidence(test, studies)]
        if claim.see:
            evidence.append((claim.see["by"], claim.see["effect"], NOTHING, claim.see["verdict"]))
        lines += [[claim.claim, claim.source, *line] for line in evidence]
    return table(HEADER, lines)


def _evidence(test: Evidence, studies: Studies) -> Iterator[tuple[str, ...]]:
    """How it was tested, the effect, its interval with photos and the verdict; one line where nothing was run."""
    rows, comparison = studies.get(test.study, ((), Comparison({}, {})))
    said = f"`{_named(test.level, comparison)}` {test.expected}"
    said += f" than `{_named(test.against, comparison)}`" if test.against else ""
    where = f"[{test.study}]({test.study}/README.md), {said}" + (f" ({test.note})" if test.note else "")
    if test.against:
        comparison = replace(comparison, baseline=dict(zip(comparison.factors, test.against.split("+"), strict=False)))
    found = [line for place, group in groups(rows).items() for line in _of_group(test, place, group, comparison)]
    yield from ((f"{where}, {place}", *line) for place, *line in found)
    if not found:
        command = f"make sweep STUDY={test.study} EXP=<experiment>"
        yield f"`{test.study}`, {said}", NOTHING, NOTHING, f"not run yet: `{command}`"


def _named(level: str, comparison: Comparison) -> str:
    """A level with its factors: `guidance` alone would not say that it is what is left out.

    >>> _named("guidance", Comparison({"without": ["nothing", "guidance"]}, {"without": "nothing"}))
    'without=guidance'
    """
    levels = level.split("+")
    if len(levels) != len(comparison.factors):
        return level
    return ", ".join(f"{factor}={name}" for factor, name in zip(comparison.factors, levels, strict=True))


def _of_group(
    test: Evidence, place: tuple[str, str], rows: Sequence[Row], comparison: Comparison
) -> Iterator[tuple[str, ...]]:
    """Of one experiment in one setting, where it has the level."""
    levels = by_level(rows, comparison.factors)
    for names in levels:
        if label(names) == test.level:
            found = against(names, levels, comparison, "rsum"), against_with_photos(names, levels, comparison)
            seeds = len(levels[names])
            yield (f"{place[0]}, setting `{place[1]}`, {seeds} seeds", *_said(*found, test.expected))


def _said(found: Difference | None, with_photos: Difference | None, expected: str) -> tuple[str, str, str]:
    """The effect, its interval with the photos drawn too, and what both mean for the claim.

    >>> from threeshnet.metrics.intervals import Interval
    >>> seeds, photos = (Difference(-4.0, Interval(*ends), 0.95) for ends in ((-6.0, -2.0), (-9.0, 1.0)))
    >>> _said(seeds, seeds, "lower")
    ('-4.0 [-6.0, -2.0]', '[-6.0, -2.0]', 'holds here')
    >>> _said(seeds, photos, "lower")[2], _said(seeds, None, "lower")[2], _said(photos, seeds, "lower")[2]
    ('holds for these photos', 'holds for these photos', 'no difference shown')
    >>> _said(seeds, seeds, "higher")[2], _said(seeds, photos, "higher")[2]
    ('**the other way round here**', 'the other way round for these photos')
    """
    if found is None:
        return NOTHING, NOTHING, "fewer than two seeds of both"
    meant = verdict(found, with_photos)
    if found.interval.excludes(0.0):
        meant = VERDICTS[found.value * SIGNS[expected] > 0, meant != ON_THESE]
    return f"{found.value:+.1f} {ends(found)}", ends(with_photos), meant


def published_table(rows: Sequence[Mapping[str, str]]) -> str:
    """What others report, with where it was seen: a table for each data set and protocol.

    Sums are of the six recalls, and marked where the source gives fewer of them: then it is the source's own. Of a row
    that was only recalled no number is shown.

    >>> row = dict.fromkeys((*OF_A_TABLE, *FACTS), "x") | dict.fromkeys(RECALLS, "")
    >>> row |= {"rsum": "470.9", "status": "seen"}
    >>> published_table([row | {"source": "a list"}]).splitlines()[-1]
    '† Taken over as it was read: without all six recalls the sum cannot be recomputed.'
    """
    parts: dict[tuple[str, ...], list[list[str]]] = {}
    for row in sorted(rows, key=lambda row: [row[name] for name in OF_A_TABLE]):
        parts.setdefault(tuple(row[name] for name in OF_A_TABLE), []).append(_published(row))
    shown = [
        text for (of, by), lines in parts.items() for text in (f"**{of}, `{by}`.**", table(PUBLISHED_HEADER, lines))
    ]
    unchecked = any(UNCHECKED in line[-3] for lines in parts.values() for line in lines)
    return "\n\n".join([*shown, *([f"{UNCHECKED} {UNCHECKED_SAYS}"] if unchecked else [])])


def _published(row: Mapping[str, str]) -> list[str]:
    recalls = [row[name] for name in RECALLS]
    if row["status"] == RECALLED:
        numbers = [SET_ASIDE] * (len(recalls) + 1)
    elif all(recalls):
        numbers = [*recalls, f"{sum(map(float, recalls)):.1f}"]
    else:
        numbers = [*recalls, f"{row['rsum']} {UNCHECKED}"]
    return [*(row[name] for name in FACTS), *numbers, row["status"], row["source"]]
