"""The jobs of a study: every level of every factor with every seed, then the levels derived from them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from hydra.core.override_parser.overrides_parser import OverridesParser

from threeshnet.errors import ConfigError, one_of
from threeshnet.studies.study import Derived, Level, Study, levels_of

SEED = "seed"


@dataclass(frozen=True)
class Planned:
    """A job before it has a folder: a training by `overrides`, or a scoring by `rule` of the jobs `of`."""

    name: str
    factors: Mapping[str, str]  # factor: level
    seed: int
    overrides: tuple[str, ...] = ()
    rule: Derived | None = None
    of: tuple[str, ...] = ()


def plan(study: Study, given: Sequence[str]) -> list[Planned]:
    """All jobs of a study. `given` are overrides of the command line, `experiment=` among them.

    They come last: the command line wins over the study, the study over the experiment. An override of a factor selects
    its levels by name, or sets other values where the factor is a key. An override with several values (`dim=64,128`)
    becomes a factor.  Raises ConfigError without an experiment, for unknown levels, and for two jobs of one name.
    """
    parsed = _parsed(given)
    if not any(key == "experiment" for _, key, _ in parsed):
        raise ConfigError(
            f"study {study.name} names no data; give an experiment: EXP=region_demo (experiment=region_demo)"
        )
    factors = {
        factor: tuple(
            level
            for level in levels
            if level.name not in (*study.when_named.get(factor, ()), *study.removed.get(factor, ()))
        )
        for factor, levels in study.factors.items()
    }
    seeds, fixed = study.seeds, []
    for word, key, values in parsed:
        if key == SEED:
            seeds = tuple(int(value) for value in values)
        elif key in factors:
            factors[key] = _selected(key, study.factors[key], values, study.removed.get(key, {}))
        elif len(values) > 1:
            factors[key] = levels_of(key, values)
        else:
            fixed.append(word)
    trained = {seed: _trainings(factors, fixed, seed) for seed in seeds}
    jobs = [job for seed in seeds for job in (*trained[seed], *_scorings(study.derived, trained, seed))]
    names = [job.name for job in jobs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"jobs of one name: {', '.join(twice)}; levels need names that differ in letters or digits")
    return jobs


def chosen(planned: Sequence[Planned], pattern: str | None) -> list[Planned]:
    """The jobs whose names match `pattern`, and the jobs they are derived from."""
    if pattern is None:
        return list(planned)
    matches = {name for job in planned if fnmatch(job.name, pattern) for name in (job.name, *job.of)}
    if not matches:
        raise ConfigError(f"only={pattern!r} fits no job; there are: {', '.join(job.name for job in planned)}")
    return [job for job in planned if job.name in matches]


def _trainings(factors: Mapping[str, Sequence[Level]], fixed: Sequence[str], seed: int) -> list[Planned]:
    jobs = []
    for row in itertools.product(*factors.values()):
        levels = {factor: level.name for factor, level in zip(factors, row, strict=True)}
        overrides = [override for level in row for override in level.overrides]
        jobs.append(Planned(job_name(levels, seed), levels, seed, (*overrides, *fixed, f"seed={seed}")))
    return jobs


def _selected(
    factor: str, levels: Sequence[Level], values: Sequence[str], removed: Mapping[str, str]
) -> tuple[Level, ...]:
    if gone := [value for value in values if value in removed]:
        said = (f"{factor}={value} was removed; commit {removed[value]} is the last one that has it" for value in gone)
        raise ConfigError("\n".join(said))
    by_name = {level.name: level for level in levels if level.name not in removed}
    if all(level.overrides == (f"{factor}={name}",) for name, level in by_name.items()):
        return levels_of(factor, values)
    if unknown := [one_of(factor, value, list(by_name)) for value in values if value not in by_name]:
        raise ConfigError("\n".join(unknown))
    return tuple(by_name[value] for value in values)


def _scorings(derived: Mapping[str, Derived], trained: Mapping[int, Sequence[Planned]], seed: int) -> list[Planned]:
    """A derived job for every set of trainings that differ in its factor alone, where all its sources are run."""
    jobs = []
    for name, rule in derived.items():
        for rest in dict.fromkeys(_other_levels(job, rule.factor) for job in trained[seed]):
            if of := _sources(rule, trained, rest, seed):
                own = {**dict(rest), rule.factor: name}
                levels = {factor: own[factor] for factor in trained[seed][0].factors}
                jobs.append(Planned(job_name(levels, seed), levels, seed, rule=rule, of=of))
    return jobs


def _sources(
    rule: Derived, trained: Mapping[int, Sequence[Planned]], rest: tuple[tuple[str, str], ...], seed: int
) -> tuple[str, ...]:
    """Names of the jobs that `rule` scores, with the levels `rest` in other factors; none when one is missing."""
    seeds = list(trained)
    if len(rule.of) == len(set(rule.of)) * len(seeds) and seed != seeds[0]:
        return ()  # all seeds would average the same models: with seeds 0 and 1, the pairs (0, 1) and (1, 0)
    by_level = {
        each: {job.factors[rule.factor]: job.name for job in jobs if _other_levels(job, rule.factor) == rest}
        for each, jobs in trained.items()
    }
    if not {*rule.of, *rule.beside} <= by_level[seed].keys():
        return ()
    names = []
    for index, level in enumerate(rule.of):
        later = rule.of[:index].count(level)  # the second mention of a level takes the next seed
        if later >= len(seeds):
            return ()
        names.append(by_level[seeds[(seeds.index(seed) + later) % len(seeds)]][level])
    return tuple(names)


def _other_levels(job: Planned, factor: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, level) for name, level in job.factors.items() if name != factor)


def job_name(levels: Mapping[str, str], seed: int) -> str:
    """A folder's name that says what the job is.

    >>> job_name({"activation": "softmax", "parts": "no VSeM"}, 1)
    'activation=softmax,parts=no_VSeM,seed=1'
    """
    return re.sub(r"[^\w.=,+-]+", "_", ",".join(f"{key}={value}" for key, value in [*levels.items(), (SEED, seed)]))


def _parsed(words: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """Each override with its key and its values, as text."""
    parsed = []
    for word, override in zip(words, OverridesParser.create().parse_overrides(list(words)), strict=True):
        several = override.is_sweep_override()
        values = [str(value) for value in override.sweep_string_iterator()] if several else [word.partition("=")[2]]
        parsed.append((word, override.get_key_element(), values))
    return parsed
