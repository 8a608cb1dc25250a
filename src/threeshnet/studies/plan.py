"""The jobs of a study: every level of every factor with every seed, and what is derived from them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from threeshnet.errors import ConfigError, one_of
from threeshnet.studies.study import Derived, Level, Study, levels_of

SEED = "seed"


@dataclass(frozen=True)
class Planned:
    """A job before it has a folder."""

    name: str
    factors: Mapping[str, str]  # factor to level
    seed: int
    overrides: tuple[str, ...] = ()
    protocol: str = "full"
    of: tuple[str, ...] = ()  # names of the jobs that it is derived from
    data: Mapping[str, str] = field(default_factory=dict)  # as in `Derived`
    correction: str | None = None
    perturb: str | None = None
    views: tuple[int, ...] = ()


def plan(study: Study, given: Sequence[str]) -> list[Planned]:
    """The jobs: every level of every factor with every seed, and what is derived from them.

    `given` are overrides of the command line, with the experiment among them. They come last, so they win over the
    study's, and the study's over the experiment's. One of a factor takes its levels by their names, or others where the
    factor is a key, and one with several values (`dim=64,128`) is a factor.  Raises ConfigError without an experiment.
    """
    factors = {
        factor: tuple(level for level in levels if level.name not in study.when_named.get(factor, ()))
        for factor, levels in study.factors.items()
    }
    seeds: tuple[int, ...] = study.seeds
    fixed = []
    if not any(key == "experiment" for _, key, _ in _parsed(given)):
        raise ConfigError(
            f"study {study.name} names no data; give an experiment: EXP=region_demo (experiment=region_demo)"
        )
    for word, key, values in _parsed(given):
        if key == SEED:
            seeds = tuple(int(value) for value in values)
        elif key in factors:
            factors[key] = _taken(key, study.factors[key], values)
        elif len(values) > 1:
            factors[key] = levels_of(key, values)
        else:
            fixed.append(word)
    made = {seed: _trained(factors, fixed, seed) for seed in seeds}
    jobs = [job for seed in seeds for job in (*made[seed], *_derived(study.derived, made, seed))]
    _check_names(jobs)
    return jobs


def _trained(factors: Mapping[str, Sequence[Level]], fixed: Sequence[str], seed: int) -> list[Planned]:
    """Every level of every factor with one seed."""
    return [
        Planned(
            job_name(levels, seed),
            {factor: level.name for factor, level in levels.items()},
            seed,
            (*_of(levels), *fixed, f"seed={seed}"),
        )
        for levels in (dict(zip(factors, row, strict=True)) for row in itertools.product(*factors.values()))
    ]


def _taken(factor: str, levels: Sequence[Level], values: Sequence[str]) -> tuple[Level, ...]:
    """The levels that the command line asks for instead of the study's."""
    by_name = {level.name: level for level in levels}
    if all(level.overrides == (f"{factor}={name}",) for name, level in by_name.items()):
        return levels_of(factor, values)
    unknown = [one_of(factor, value, list(by_name)) for value in values if value not in by_name]
    if unknown:
        raise ConfigError("\n".join(unknown))
    return tuple(by_name[value] for value in values)


def _of(levels: Mapping[str, Level]) -> list[str]:
    return [override for level in levels.values() for override in level.overrides]


def _derived(derived: Sequence[Derived], made: Mapping[int, Sequence[Planned]], seed: int) -> list[Planned]:
    """A derived job for every set of jobs that differ in its factor alone, where all that it needs is there."""
    found = []
    for rule in derived:
        others = dict.fromkeys(_others(job, rule.factor) for job in made[seed])
        for rest in others:
            of = _sources(rule, made, rest, seed)
            if of:
                named = {**dict(rest), rule.factor: rule.name}
                levels = {factor: named[factor] for factor in made[seed][0].factors}
                how: dict[str, Any] = {"protocol": rule.protocol, "data": rule.data}
                how |= {"correction": rule.correction, "perturb": rule.perturb, "views": rule.views}
                found.append(Planned(job_name(levels, seed), levels, seed, of=of, **how))
    return found


def _sources(
    rule: Derived, made: Mapping[int, Sequence[Planned]], rest: tuple[tuple[str, str], ...], seed: int
) -> tuple[str, ...]:
    """Names of the jobs that `rule` scores together, of the levels `rest` in other factors; none if one is missing."""
    seeds = list(made)
    if len(rule.of) == len(set(rule.of)) * len(seeds) and seed != seeds[0]:
        return ()  # every seed has the same models then: with two seeds 0 and 1 are 1 and 0
    by_level = {
        at: {job.factors[rule.factor]: job.name for job in made[at] if _others(job, rule.factor) == rest}
        for at in seeds
    }
    if not set(rule.beside) <= by_level[seed].keys():
        return ()
    names = []
    for place, level in enumerate(rule.of):
        later = rule.of[:place].count(level)
        if later >= len(seeds) or level not in by_level[seed]:
            return ()
        names.append(by_level[seeds[(seeds.index(seed) + later) % len(seeds)]][level])
    return tuple(names)


def _others(job: Planned, factor: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, level) for name, level in job.factors.items() if name != factor)


def job_name(levels: Mapping[str, Level | str], seed: int) -> str:
    """A folder's name that says what the job is.

    >>> job_name({"activation": "softmax", "parts": "no VSeM"}, 1)
    'activation=softmax,parts=no_VSeM,seed=1'
    """
    named = {factor: level if isinstance(level, str) else level.name for factor, level in levels.items()}
    return re.sub(r"[^\w.=,+-]+", "_", ",".join(f"{key}={value}" for key, value in [*named.items(), (SEED, seed)]))


def _parsed(words: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """Each override with its key and its value or values, as text."""
    found = []
    for word, override in zip(words, OverridesParser.create().parse_overrides(list(words)), strict=True):
        several = override.is_sweep_override()
        values = [str(value) for value in override.sweep_string_iterator()] if several else [word.partition("=")[2]]
        found.append((word, override.get_key_element(), values))
    return found


def _check_names(jobs: Sequence[Planned]) -> None:
    names = [job.name for job in jobs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"jobs of one name: {', '.join(twice)}; levels need names that differ in letters or digits")
