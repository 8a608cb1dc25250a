"""The commands, settings and choices that a page shows, and what is wrong with them."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from threeshnet.cli.words import VERBS as SHORT_FORMS
from threeshnet.cli.words import expanded
from threeshnet.errors import ConfigError
from threeshnet.overrides import divided
from threeshnet.studies.plan import plan
from threeshnet.studies.study import load_study

from .command_line import taken

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, flags=re.MULTILINE))
VARIABLES = set(re.findall(r"\$\(([A-Z][A-Z_]+)\)", MAKEFILE)) | set(re.findall(r"\[([A-Z]+)=", MAKEFILE))
STAND_IN = "anything"  # for what a reader puts in (<folder>, …, $VARIABLE) or writes as a page says
FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", flags=re.MULTILINE | re.DOTALL)
SHELL = ("sh", "bash", "shell")
VERBS = {file.stem for file in CONF.glob("*.yaml")}
CALL = re.compile(r"(?:^|[ /])threeshnet [a-z]+\b")
BARE = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ} | {"LC_ALL": "C.UTF-8"}


class Fence(NamedTuple):
    """A fenced block: the words after the back-ticks and what is in it."""

    words: list[str]
    text: str


def fences(text: str) -> list[Fence]:
    found = FENCE.findall(text)
    return [Fence(words.split(), re.sub(f"^{indent}", "", body, flags=re.MULTILINE)) for indent, words, body in found]


def spans(text: str) -> list[str]:
    """Code between single back-ticks, outside of blocks, on one line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]


def filled(code: str) -> str:
    return re.sub(r"<[^<>]+>|…|\$\{?[A-Z_]+\}?|\bmine\b|\bsmooth_maximum\b", STAND_IN, code)


def commands(text: str) -> list[str]:
    """Every line that calls make or a command of this package, with stand-ins filled in."""
    text = text.replace("\\\n", " ")
    blocks = [fence.text for fence in fences(text) if fence.words[:1] in [[name] for name in SHELL]]
    blocks += re.findall(r"(?:^ {4}\S.*\n)+", FENCE.sub("", text), flags=re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.splitlines()] + spans(text)
    return [filled(line) for line in lines if re.match(r"make\b(?! \d)", line) or CALL.search(line)]


# ---- commands


def command_faults(code: str) -> Iterator[str]:
    """What is wrong with a line that calls make or a command."""
    words = shlex.split(code, comments=True)
    if words[0] != "make":
        yield from module_faults(words)
        return
    named = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
    given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    wrong = [f"no target {name!r} in the Makefile" for name in named if name not in TARGETS | {STAND_IN}]
    wrong += [f"no variable {name} in the Makefile" for name in given if name not in VARIABLES]
    yield from wrong
    if not wrong and given and named[0] in TARGETS:  # the name of a target alone is a word of the text
        yield from module_faults(shlex.split(made(tuple(words[1:]))))


@cache
def made(arguments: tuple[str, ...]) -> str:
    """The line that a target stands for."""
    command = ["make", "--no-print-directory", "-C", str(ROOT), "ENV_PYTHON=python", "-n", *arguments]
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8", env=BARE).stdout


def module_faults(words: list[str]) -> Iterator[str]:
    """What is wrong with `threeshnet <verb> <overrides>`, however it is started; nothing for other programs."""
    name, rest = called(words)
    if name is None:
        return
    if name not in VERBS:
        yield f"no verb {name!r}; there are {sorted(VERBS)}"
        return
    rest = list(itertools.takewhile(lambda word: word != "|", rest))
    try:
        if name in SHORT_FORMS:
            rest = expanded(name, rest, yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8")))
    except ConfigError as error:
        yield f"{name}: {error}"
        return
    given = [word for word in rest if not word.startswith("-") and word != STAND_IN]
    try:
        if name == "sweep":  # takes settings of `train` as well
            given, name = settings_of_train(given), "train"
        for overrides in alternatives(given):
            taken(name, overrides, looked_at=lambda override: STAND_IN not in override)
    except (HydraException, OmegaConfBaseException, ConfigError, ValueError) as error:  # or a number for a group
        lines = str(error).splitlines()
        yield f"{name} {' '.join(given)}: {' '.join(lines) if isinstance(error, ConfigError) else lines[0]}"


def called(words: list[str]) -> tuple[str | None, list[str]]:
    """The verb that a line calls, and the words after it; None for other programs."""
    for at, word in enumerate(words):
        if re.search(r"(^|/)threeshnet$", word) and re.match("[a-z]", words[at + 1] if at + 1 < len(words) else ""):
            return words[at + 1], words[at + 2 :]
    return None, []


def settings_of_train(words: list[str]) -> list[str]:
    """The overrides that a sweep hands on; its own are composed here, and levels of the study planned.

    Raises ConfigError for a study or a level that is not there, ValueError for a level that an override undoes.
    """
    own = divided(words, [str(key) for key in OmegaConf.load(CONF / "sweep.yaml")])
    cfg = composed("sweep", tuple(own))
    if cfg.study == STAND_IN:
        return list(cfg.overrides)
    study, given = load_study(cfg.study), list(cfg.overrides)
    keys = {key_of(override) for override in given}
    for job in plan(study, given) if "experiment" in keys and cfg.only is None else ():
        for factor, name in job.factors.items():
            levels = [level for level in study.factors.get(factor, ()) if level.name == name]
            made = {key_of(override) for level in levels for override in level.overrides}
            if made and made <= keys - {factor}:
                raise ValueError(f"{job.name} is undone by {' '.join(given)}")
    names = {factor: {level.name for level in levels} for factor, levels in study.factors.items()}
    parts = [override.partition("=") for override in given]  # those that select levels are not handed on
    return ["".join(each) for each in parts if not set(each[2].split(",")) <= names.get(each[0], set())]


def key_of(override: str) -> str:
    return override.partition("=")[0]


def alternatives(words: list[str]) -> Iterator[tuple[str, ...]]:
    """The overrides of each job of a sweep; a stand-in for a choice becomes the first choice there is."""
    parsed = OverridesParser.create().parse_overrides(words)
    yield from itertools.product(*(list(values(override)) for override in parsed))


def values(override: Override) -> Iterator[str]:
    key, line = override.get_key_element(), override.input_line or ""
    group = override.key_or_group
    if override.is_sweep_override():
        yield from (f"{key}={value}" for value in override.sweep_string_iterator())
    elif STAND_IN in line.partition("=")[2] and (CONF / group).is_dir():
        yield f"{key}={choices(group)[0]}"
    else:
        yield line


@cache
def composed(name: str, overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(overrides))


# ---- settings and choices that are named in the text


def choices(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@cache
def settings() -> frozenset[str]:
    """Every dotted key of a command, or that some choice of a group brings."""
    keys: set[str] = set()
    for file in CONF.glob("*.yaml"):
        keys.update(flat(composed(file.stem, ("data=demo",) if file.stem == "data" else ())))
    for file in CONF.glob("*/*.yaml"):
        brought = list(flat(OmegaConf.load(file)))
        places = [file.parent.name, *(["grid"] if file.parent.name == "extractor" else [])]  # extractor@grid
        keys.update(f"{place}.{key}" for place in places for key in brought)
    return frozenset(keys)


def flat(node: Any, prefix: str = "") -> Iterator[str]:
    for key in node:
        yield f"{prefix}{key}"
        below = node._get_node(key)
        if isinstance(below, DictConfig) and not below._is_none() and not below._is_missing():
            yield from flat(below, f"{prefix}{key}.")


def setting_faults(span: str) -> Iterator[str]:
    """What is wrong with `key=value key=value` in the text; nothing for other code."""
    words = filled(span).split()
    if not all(re.fullmatch(r"[a-z_]+[a-z_.@]*=[^=]*", word) for word in words):
        return
    for word in words:
        key, _, value = word.partition("=")
        group = key.partition("@")[0]
        if (CONF / group).is_dir():
            asked = [one for one in value.strip("[]").split(",") if one and STAND_IN not in one and one != "null"]
            yield from (
                f"no choice {one!r} of {group}; there are {choices(group)}"
                for one in asked
                if one not in choices(group)
            )
        elif key not in settings():
            yield f"no setting {key!r} in any command"


def table_faults(text: str) -> Iterator[str]:
    """Rows whose first cell is the name of a group, and whose second has its choices."""
    for group, cell in re.findall(r"^\| `([a-z]+)` \| ([^|]*)\|", FENCE.sub("", text), flags=re.MULTILINE):
        if (CONF / group).is_dir():
            for span in re.findall(r"`([^`]+)`", cell):
                yield from setting_faults(f"{group}={span}")


def faults(text: str) -> list[str]:
    found = [f"`{code}`: {fault}" for code in dict.fromkeys(commands(text)) for fault in command_faults(code)]
    found += [f"`{span}`: {fault}" for span in dict.fromkeys(spans(text)) for fault in setting_faults(span)]
    return [*found, *table_faults(text)]
