"""A study as conf/studies/<name>.yaml declares it: a question, factors with levels, derived levels, and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from threeshnet.errors import ConfigError, Problems, no_numbers, one_of
from threeshnet.installation import CONF, conf_files
from threeshnet.metrics.corrections import CORRECTIONS
from threeshnet.metrics.perturbations import CAPTION_PERTURBATIONS, IMAGE_PERTURBATIONS
from threeshnet.metrics.protocols import PROTOCOLS

STUDIES = CONF / "studies"
TRANSFER = "transfer"  # the protocol that scores a model on data that it was not trained on
PERTURBATIONS = (*IMAGE_PERTURBATIONS, *CAPTION_PERTURBATIONS)
CHOICES = {"protocol": tuple(PROTOCOLS), "correction": tuple(CORRECTIONS), "perturb": PERTURBATIONS}
Name = Annotated[str, Field(min_length=1)]


class Form(BaseModel):
    """A part of the yaml. YAML reads a level named 8 as a number; it is a name all the same."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class Level(NamedTuple):
    """One level of a factor: its name, and the overrides that select it."""

    name: str
    overrides: tuple[str, ...]


class Derived(Form):
    """A level without a training: checkpoints of other levels of `factor`, scored again.

    Every model of `of` has the job's seed. A level that is named several times also takes the seeds that follow, and
    the first seed again after the last: `of: [grid, grid]` averages two models of one kind.
    """

    factor: Name
    of: tuple[str, ...] = Field(min_length=1)
    protocol: str
    data: dict[str, str] = {}  # data set of the training: data set of the scoring
    correction: str | None = None  # hub correction with the split `train` as its reference
    perturb: str | None = None  # changes the model's input
    views: tuple[int, ...] = ()  # numbers of the views that are averaged with the photos (test-time augmentation)
    beside: tuple[str, ...] = ()  # levels that must be run too, as those that read the same views

    @model_validator(mode="before")
    @classmethod
    def _default_protocol(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        rescored = any(given.get(key) for key in ("correction", "perturb", "views"))
        return {"protocol": "full" if rescored else "ensemble", **given}

    def contradictions(self, name: str) -> Iterator[str]:
        """Values that do not exist or do not go together."""
        for key, choices in CHOICES.items():
            value = getattr(self, key)
            if value is not None and value not in choices:
                yield one_of(f"{name}: {key}", value, choices)
        if self.correction and self.data:
            yield f"{name}: a correction takes training queries, which `data` of another kind has not seen"
        if self.views and (self.data or self.perturb):
            yield f"{name}: views are of the training's own photos, so without `data` and `perturb`"
        yield from no_numbers(f"{name}: views", self.views)
        if (self.protocol == TRANSFER) != bool(self.data):
            yield f"{name}: protocol={TRANSFER} and `data` (of the training: of the scoring) go together"
        for key in ("correction", "perturb", "protocol"):
            value = getattr(self, key)
            if len(self.of) != 1 and value is not None and (key != "protocol" or value == TRANSFER):
                yield f"{name}: {key}={value} scores one model, and `of` names {len(self.of)}"


class Range(Form):
    """A range of values, whole numbers where its ends and its step are whole."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None


def _kind(value: Any) -> str:
    return "range" if isinstance(value, Mapping | Range) else "choices"


Choices = Annotated[tuple[Any, ...], Field(min_length=1)]
Values = Annotated[Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")], Discriminator(_kind)]


class Search(Form):
    """Dotted keys of `train`, each with a range or a list of choices, and how many trials draw from them."""

    trials: int = Field(ge=1)
    ranges: dict[str, Values]


class Study(Form):
    """A study names no data; an experiment does.

    A factor without a baseline (null) is compared within each of its levels. Levels of `when_named` need data that is
    made first: they run only when the command line names them. The code of `removed` levels is gone: their rows are
    reported, and they never run.
    """

    name: str
    title: Name
    question: Name
    factors: dict[str, tuple[Level, ...]] = {}
    baseline: dict[str, str | None] = {}
    seeds: tuple[int, ...] = (0, 1, 2)
    derived: dict[str, Derived] = {}
    search: Search | None = None
    reference: dict[str, float] = {}  # rsum of others in the same setting, by a description
    when_named: dict[str, tuple[str, ...]] = {}
    removed: dict[str, dict[str, str]] = {}  # by factor: the last commit that has a level

    @field_validator("factors", mode="before")
    @classmethod
    def _read_levels(cls, factors: Any) -> Any:
        if not isinstance(factors, Mapping):
            return factors or {}
        return {factor: levels_of(factor, levels) for factor, levels in factors.items()}

    @property
    def baseline_levels(self) -> dict[str, str]:
        """The baseline of each factor that has one."""
        return {factor: level for factor, level in self.baseline.items() if level is not None}

    def contradictions(self) -> Iterator[str]:
        """Names that do not exist, and values that do not go together."""
        levels = {factor: [level.name for level in of] for factor, of in self.factors.items()}
        for factor, named in self.when_named.items():
            yield from _unknown(f"when_named {factor}", named, levels.get(factor, []))
            if self.baseline.get(factor) in named:
                yield f"when_named {factor}: {self.baseline[factor]} is the baseline, which always runs"
        for factor, named in self.removed.items():
            yield from _unknown(f"removed {factor}", named, levels.get(factor, []))
        for name, rule in self.derived.items():
            there = levels.setdefault(rule.factor, [])
            yield from _unknown(f"derived {name}: {rule.factor}", (*rule.of, *rule.beside), there)
            yield from rule.contradictions(f"derived {name}")
            there.append(name)
        yield from (f"baseline: no level of {factor} is named" for factor in self.factors.keys() - self.baseline.keys())
        for factor, level in self.baseline_levels.items():
            yield from _unknown(f"baseline {factor}", [level], levels.get(factor, []))


def load_study(name: str) -> Study:
    """conf/studies/<name>.yaml.  Raises ConfigError with the studies that exist, or with every problem of the file."""
    files = conf_files("studies")
    if name not in files:
        raise ConfigError(one_of("study", name, sorted(files)))
    content: Any = OmegaConf.to_container(OmegaConf.load(files[name]))
    if not isinstance(content, Mapping):
        raise ConfigError(f"conf/studies/{name}.yaml holds a {type(content).__name__}, no names with values")
    return parse_study(name, content)


def parse_study(name: str, content: Mapping[str, Any]) -> Study:
    """A study from the content of its yaml.  Raises ConfigError with every problem."""
    problems = Problems(f"conf/studies/{name}.yaml")
    study = None
    try:
        study = Study.model_validate({**content, "name": name})
        problems.extend(study.contradictions())
    except ValidationError as error:
        problems.extend(map(_problem, error.errors()))
    problems.raise_as(ConfigError)
    assert study is not None
    return study


def levels_of(factor: str, levels: Any) -> Any:
    """Levels from a list of values of the key `factor`, or from names with their overrides."""
    if isinstance(levels, Mapping):
        return tuple(Level(name, overrides) for name, overrides in levels.items())
    if isinstance(levels, str) or not hasattr(levels, "__iter__"):
        return levels  # pydantic says what is expected
    return tuple(Level(str(value), (f"{factor}={value}",)) for value in levels)


def _unknown(name: str, values: Any, there: list[str]) -> list[str]:
    return [one_of(name, value, there) for value in values if value not in there]


def _problem(error: Any) -> str:
    """One problem of the yaml's form, with the path of its key."""
    parts = [part for part in error["loc"] if part not in ("range", "choices")]  # tags of the union Values
    if not parts:  # of the whole: a key with half a letter in it
        return str(error["msg"])
    *path, key = parts
    where = f"{' '.join(map(str, path))}: " if path else ""
    if error["type"] == "extra_forbidden":
        form = {"derived": Derived, "search": Range if len(path) > 1 else Search}.get(path[0], Study) if path else Study
        return where + one_of("key", key, [name for name in form.model_fields if name != "name"])
    if error["type"] in ("missing", "string_too_short", "too_short"):
        return f"{where}{key} is missing"
    return f"{where}{key}={error['input']!r}: {error['msg']}"
