"""A study: its question, its factors with their levels, what is derived from them, and its seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from threeshnet.errors import ConfigError, Problems, no_numbers, one_of

KEYS = ("title", "question", "factors", "baseline", "seeds", "derived", "search", "reference", "when_named")
OF_DERIVED = ("factor", "of", "protocol", "data", "views", "correction", "perturb", "beside")
SEEDS = (0, 1, 2)
TRANSFER = "transfer"  # the protocol that scores a model on data that it was not trained on
PROTOCOLS = ("full", "five_fold_1k", TRANSFER, "ensemble")  # those of metrics, which take seconds to load
CORRECTIONS = ("inverted_softmax", "dynamic_inverted_softmax", "csls")
PERTURBATIONS = ("drop_regions", "swap_segmentation", "noisy_segmentation", "shuffle_map", "blank_segmentation")
PERTURBATIONS += ("swap_words", "shuffle_words")


@dataclass(frozen=True)
class Level:
    """One level of a factor: its name, and the overrides that make it."""

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Derived:
    """A level that is no training: the checkpoints of other levels of `factor`, scored together by `protocol`.

    They are scored on the held-out split of their own data, or of those that `data` names for them. `views` are the
    numbers of other views that images are seen in as well, `correction` names one of hubs, by the split `train`, and
    `perturb` changes what the model sees. All have the job's seed, but that a level named several times takes the seeds
    after it as well, the first again after the last: two models of one kind. It is made where the levels `beside` are
    run too, as those that read the same views.
    """

    name: str
    factor: str
    of: tuple[str, ...]
    protocol: str = "ensemble"
    data: Mapping[str, str] = field(default_factory=dict)  # data set of the training to that of the scoring
    correction: str | None = None
    perturb: str | None = None
    views: tuple[int, ...] = ()
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """What conf/studies/<name>.yaml says. It names no data: an experiment does.

    A factor without a `baseline` is compared within each of its levels. Levels of `when_named` need something that is
    made first: they are run when the command line names them.
    """

    name: str
    title: str
    question: str
    factors: Mapping[str, tuple[Level, ...]]
    baseline: Mapping[str, str]
    seeds: tuple[int, ...] = SEEDS
    derived: tuple[Derived, ...] = ()
    search: Mapping[str, Any] = field(default_factory=dict)
    reference: Mapping[str, float] = field(default_factory=dict)  # rsum of others in the same setting, by what it is
    when_named: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by factor


def parse_study(name: str, content: Mapping[str, Any]) -> Study:
    """A study from its yaml.  Raises ConfigError with everything that is wrong in it."""
    problems = Problems(f"conf/studies/{name}.yaml")
    problems.extend(one_of("key", key, KEYS) for key in content if key not in KEYS)
    problems.extend(f"{key} is missing" for key in ("title", "question") if not content.get(key))
    factors = {str(factor): levels_of(str(factor), levels) for factor, levels in (content.get("factors") or {}).items()}
    named = {str(factor): level for factor, level in (content.get("baseline") or {}).items()}
    baseline = {factor: str(level) for factor, level in named.items() if level is not None}
    derived = tuple(_rule(str(level), made, problems) for level, made in (content.get("derived") or {}).items())
    known = {factor: [level.name for level in levels] for factor, levels in factors.items()}
    for made in derived:
        there = known.setdefault(made.factor, [])
        problems.extend(
            one_of(f"derived {made.name}: {made.factor}", each, there)
            for each in (*made.of, *made.beside)
            if each not in there
        )
        there.append(made.name)
    asked = {str(factor): tuple(map(str, levels)) for factor, levels in (content.get("when_named") or {}).items()}
    for factor, levels in asked.items():
        there = [level.name for level in factors.get(factor, ())]
        problems.extend(one_of(f"when_named {factor}", level, there) for level in levels if level not in there)
        if baseline.get(factor) in levels:
            problems.add(f"when_named {factor}: {baseline[factor]} is the baseline, which is always run")
    problems.extend(f"baseline: no level of {factor} is named" for factor in factors if factor not in named)
    problems.extend(
        one_of(f"baseline {factor}", level, known.get(factor, ()))
        for factor, level in baseline.items()
        if level not in known.get(factor, ())
    )
    problems.raise_as(ConfigError)
    seeds = tuple(int(seed) for seed in content.get("seeds", SEEDS))
    search = content.get("search") or {}
    reference = {str(said): float(rsum) for said, rsum in (content.get("reference") or {}).items()}
    title, question = content["title"], content["question"]
    return Study(name, title, question, factors, baseline, seeds, derived, search, reference, asked)


def levels_of(factor: str, levels: Any) -> tuple[Level, ...]:
    """A list of values of the key `factor`, or names with their overrides."""
    if isinstance(levels, Mapping):
        return tuple(Level(str(name), tuple(map(str, overrides))) for name, overrides in levels.items())
    return tuple(Level(str(value), (f"{factor}={value}",)) for value in levels)


def _rule(name: str, made: Mapping[str, Any], problems: Problems) -> Derived:
    """One derived level; what is wrong with it is told to `problems`."""
    problems.extend(one_of(f"derived {name}: key", key, OF_DERIVED) for key in made if key not in OF_DERIVED)
    of, data = tuple(map(str, made.get("of", ()))), made.get("data") or {}
    correction, perturb, views = made.get("correction"), made.get("perturb"), tuple(made.get("views") or ())
    protocol = made.get("protocol", "full" if correction or perturb or views else "ensemble")
    beside = tuple(map(str, made.get("beside") or ()))
    rule = Derived(name, str(made.get("factor")), of, protocol, data, correction, perturb, views, beside)
    if not of:
        problems.add(f"derived {name}: of is missing: the levels whose checkpoints are scored")
    if protocol not in PROTOCOLS:
        problems.add(one_of(f"derived {name}: protocol", protocol, PROTOCOLS))
    if correction is not None and correction not in CORRECTIONS:
        problems.add(one_of(f"derived {name}: correction", correction, CORRECTIONS))
    if perturb is not None and perturb not in PERTURBATIONS:
        problems.add(one_of(f"derived {name}: perturb", perturb, PERTURBATIONS))
    if correction and data:
        problems.add(f"derived {name}: a correction takes training queries, which `data` of another kind has not seen")
    if views and (data or perturb):
        problems.add(f"derived {name}: views are of the photos of the training as they are, without data or perturb")
    problems.extend(no_numbers(f"derived {name}: views", views))
    if (rule.protocol == TRANSFER) != bool(rule.data):
        problems.add(f"derived {name}: protocol={TRANSFER} and `data` (of the training: of the scoring) go together")
    alone = {"correction": correction, "perturb": perturb, "protocol": TRANSFER if protocol == TRANSFER else None}
    for key, value in alone.items():
        if value is not None and len(of) != 1:
            problems.add(f"derived {name}: {key}={value} scores one model, and `of` names {len(of)}")
    return rule
