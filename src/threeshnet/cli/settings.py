"""Settings of the wrong kind are refused before anything is built.

The kind of a setting is that of its default: what is a whole number in `conf/` is one on the command line too. A
default that says nothing (`null`, `???`) has its kind in UNSAID.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

from threeshnet.errors import ConfigError, Problems

TEXT, TEXTS, WHOLE, NUMBER, FLAG = (
    "a text",
    "a text or a list of texts",
    "a whole number of 64 bits",
    "a number",
    "true or false",
)
LIST, GROUP = "a list", "a group of settings"
UNSAID = {
    **dict.fromkeys(
        ("out", "shards", "name", "split", "text_config", "bank", "perturb", "dtype", "most_regions"), TEXT
    ),
    **dict.fromkeys(("masks", "classes", "cache", "data.reader.captions", "study", "page", "wandb_entity"), TEXT),
    **dict.fromkeys(("only", "into", "setting_name", "one", "other", "trained_on"), TEXT),
    **dict.fromkeys(("raw", "checkpoint", "captions"), TEXTS),
    **dict.fromkeys(("limit", "cells", "limit_train_images", "chunk", "parallel", "trials"), WHOLE),
    **dict.fromkeys(("checkpoints.steps", "sizes.region_width", "sizes.grid_width", "sizes.classes"), WHOLE),
    **dict.fromkeys(("splits", "fields"), LIST),
}
MAY_BE_NULL = ("dev_split", "test_split", "leakage_distance", "minutes", "revision")  # though their defaults are not
FRACTIONS = ("warm_up_epochs", "minutes")  # though their defaults are whole
ANOTHER = re.compile(r"\$\{(\w+(?:\.\w+)*)\}")  # an interpolation of one setting
SEVERAL_KINDS = ("trainer.devices", "trainer.compile")  # a number, a list or a text: who takes them looks at them


def check_settings(cfg: DictConfig) -> None:
    """Look at what was given on the command line.  Raises ConfigError once for all that is of another kind.

    A configuration that a program composed has no command line: nothing is looked at.
    """
    if not HydraConfig.initialized():
        return
    hydra = HydraConfig.get()
    given = [override.key_or_group for override in OverridesParser.create().parse_overrides(list(hydra.overrides.task))]
    defaults = Defaults(str(hydra.job.config_name), hydra.runtime.choices)
    problems = Problems("settings")
    for key in dict.fromkeys(key for key in given if key not in hydra.runtime.choices):
        problems.extend(defaults.faults(cfg, key))
    problems.raise_as(ConfigError, f"threeshnet {hydra.job.config_name} --help shows the defaults.")


class Defaults:
    """What the files in `conf/` say of a setting; a file is read when one of its settings is asked for."""

    def __init__(self, config_name: str, choices: Mapping[str, Any]) -> None:
        from threeshnet.installation import CONF

        self.conf, self.primary, self.choices = CONF, CONF / f"{config_name}.yaml", choices

    def faults(self, cfg: DictConfig, key: str) -> Iterator[str]:
        """What is wrong with the value at `key`, or with a setting above it that has become a group."""
        parts = key.split(".")
        for above in (".".join(parts[:end]) for end in range(1, len(parts))):
            kind = self.kind(above)
            if kind not in (None, GROUP) and isinstance(OmegaConf.select(cfg, above), DictConfig):
                yield f"{above} is {kind}, not {GROUP}"
                return
        if parts[0] != "hydra" and not self._known(key) and (others := self._closed(parts[:-1])):
            yield f"{key} is not a setting; in {'.'.join(parts[:-1])} there are: {', '.join(others)}"
        yield from self._faults_below(key, OmegaConf.select(cfg, key, default=...))

    def _faults_below(self, key: str, value: Any) -> Iterator[str]:
        if isinstance(value, DictConfig) and self.kind(key) in (None, GROUP):
            for name in (name for name in value if not is_filled_in_later(value, name)):
                yield from self._faults_below(f"{key}.{name}", value[name])
            return
        kind, default = self.kind(key), self._default(key)
        if kind is None or value is ... or is_a(value, kind) or (value is None and self._may_be_null(key, default)):
            return
        shown = "null" if value is None else repr(value)
        example = "" if default is None else f", as {default!r} is"
        hint = " (in quotes: '" + f'{key}="{value}"' + "')" if kind in (TEXT, TEXTS) and is_a(value, NUMBER) else ""
        yield f"{key}={shown[:100]}: {kind} is needed{example}{hint}"

    def kind(self, key: str) -> str | None:
        """The kind of a setting, None where nothing says it."""
        if key in SEVERAL_KINDS:
            return None
        if key.rsplit(".", 1)[-1] in FRACTIONS and self._known(key):
            return NUMBER
        if (other := self._other(key)) is not None:
            return self.kind(other)
        default = self._default(key)
        if default is None:
            return UNSAID.get(key, UNSAID.get(key.rsplit(".", 1)[-1])) if self._known(key) else None
        if isinstance(default, str) and self._foreign(key):
            return None  # such as precision, which Lightning takes as a number too
        return next(kind for kind in (FLAG, WHOLE, NUMBER, TEXT, LIST, GROUP) if is_a(default, kind))

    def _default(self, key: str) -> Any:
        """The default, None where there is none, or where it is made of other settings alone."""
        found = next((found for tree in self._trees(key) if (found := at(tree, key.split("."))) is not ...), None)
        computed = isinstance(found, str) and found.startswith("${") and found.endswith("}")
        return None if computed or found == "???" else found

    def _other(self, key: str) -> str | None:
        """The setting whose value this one has by default."""
        for tree in self._trees(key):
            found = at(tree, key.split("."))
            if isinstance(found, str) and (named := ANOTHER.fullmatch(found)) and named.group(1) != key:
                return named.group(1)
        return None

    def _known(self, key: str) -> bool:
        return any(at(tree, key.split(".")) is not ... for tree in self._trees(key))

    def _closed(self, group: list[str]) -> list[str]:
        """The settings of a group that can have no others: one of the command's own that no part is built from."""
        found = at(_loaded(self.primary), group) if group else ...
        return list(found) if isinstance(found, dict) and "_target_" not in found else []

    def _may_be_null(self, key: str, default: Any) -> bool:
        return default is None or key.rsplit(".", 1)[-1] in MAY_BE_NULL or self._foreign(key)

    def _foreign(self, key: str) -> bool:
        """Whether the setting goes to a class of another package, which knows best what it takes."""
        above = key.split(".")[:-1]
        targets = (at(tree, [*above, "_target_"]) for tree in self._trees(key))
        return any(isinstance(name, str) and not name.startswith("threeshnet.") for name in targets)

    def _trees(self, key: str) -> Iterator[Any]:
        """The files that may say something of `key`, as plain containers with the keys of the whole."""
        top = key.split(".")[0]
        yield _loaded(self.primary)
        for group, choice in self.choices.items():
            name, _, package = group.partition("@")
            package = package or name
            if package.split(".")[0].split("/")[0] == top and isinstance(choice, str):
                tree = _loaded(self.conf / name / f"{choice}.yaml")
                for part in reversed(package.replace("/", ".").split(".")):
                    tree = {part: tree}
                yield tree
        if top not in self.choices:  # a group that takes several files, of which Hydra does not say which
            yield from ({top: _loaded(file)} for file in sorted((self.conf / top).glob("*.yaml")))


_FILES: dict[Path, Any] = {}


def _loaded(file: Path) -> Any:
    if file not in _FILES:
        _FILES[file] = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else {}
    return _FILES[file]


def is_filled_in_later(group: DictConfig, name: Any) -> bool:
    """Whether a value is missing still, or is that of a setting which is: shards say their sizes when they are read."""
    try:
        group[name]
    except (MissingMandatoryValue, InterpolationToMissingValueError):
        return True
    return False


def at(tree: Any, path: list[str]) -> Any:
    """What lies there in plain dictionaries, `...` where nothing does."""
    for part in path:
        if not isinstance(tree, dict) or part not in tree:
            return ...
        tree = tree[part]
    return tree


def is_a(value: Any, kind: str) -> bool:
    """Whether a value is of a kind.

    >>> [is_a(True, WHOLE), is_a(3, NUMBER), is_a(float("nan"), NUMBER), is_a(["a"], TEXTS)]
    [False, True, False, True]
    """
    if kind in (WHOLE, NUMBER):
        if isinstance(value, bool) or not isinstance(value, int if kind == WHOLE else int | float):
            return False
        return abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)
    if kind == TEXTS and not isinstance(value, str):
        return not hasattr(value, "keys") and is_a(value, LIST) and all(isinstance(item, str) for item in value)
    if kind == LIST:
        return hasattr(value, "__iter__") and not isinstance(value, str) and not hasattr(value, "keys")
    if kind == GROUP:
        return hasattr(value, "keys")
    return isinstance(value, bool if kind == FLAG else str)
