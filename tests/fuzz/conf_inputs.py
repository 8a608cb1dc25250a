"""Hostile files of a user's own `conf/`: parts, data sets, experiments and studies, for every verb that reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from .arena import GOOD, ROOT, Arena
from .attempts import Attempt, trace_of
from .nonsense import Generator, pick, spoil_bytes, spoil_tree
from .payloads import plant

CONF = ROOT / "conf"
NAME = "strange"  # of the file, and the choice that names it
GROUPS = {
    "train": ("activation", "augment", "averaging", "boxes", "data", "experiment", "features", "fusion", "logger"),
    "data": ("data", "extractor", "segmentation", "view"),
    "import": ("layout",),
}
GROUPS["train"] += ("objective", "optimizer", "parts", "pooling", "recipe", "schedule", "setting", "text", "trainer")
IN_LISTS = ("boxes", "fusion", "parts")
PACKAGE = "# @package"  # a comment that Hydra reads
STUDY = {  # of the one run that the arena has
    "title": "A study",
    "question": "What?",
    "factors": {"pooling": ["generalized", "mean"]},
    "baseline": {"pooling": "generalized"},
    "derived": {"twice": {"factor": "pooling", "of": ["generalized", "generalized"]}},
    "reference": {"others": 400.0},
    "seeds": [0],
}


def parts(command: str) -> Callable[[Arena, Path, Generator], Attempt]:
    """A file of a group, spoiled, under a name of its own."""

    def made(arena: Arena, folder: Path, generator: Generator) -> Attempt:
        group = str(pick(generator, GROUPS[command]))
        source = pick(generator, sorted((CONF / group).glob("*.yaml")))
        file = folder / "conf" / group / f"{NAME}.yaml"
        said = written(file, source.read_text(encoding="utf-8"), folder, generator)
        choice = f"[{NAME}]" if group in IN_LISTS else NAME
        good = [word for word in GOOD[command](arena) if word.split("=")[0] != group]
        return Attempt([*good, f"{group}={choice}"], f"{group}: {said}", (), own_conf=True)

    return made


def studies(command: str) -> Callable[[Arena, Path, Generator], Attempt]:
    """A study of one's own, spoiled."""

    def made(arena: Arena, folder: Path, generator: Generator) -> Attempt:
        file = folder / "conf" / "studies" / f"{NAME}.yaml"
        said = written(file, json.dumps(STUDY), folder, generator)
        words = [word for word in GOOD[command](arena) if not word.startswith("study=")]
        return Attempt([*words, f"study={NAME}"], said, (), own_conf=True)

    return made


def written(file: Path, text: str, folder: Path, generator: Generator) -> str:
    """Write a yaml with something wrong in what it says or in how it is written."""
    file.parent.mkdir(parents=True)
    way = generator.integers(8)
    if way < 6:
        content: Any = OmegaConf.to_container(OmegaConf.create(text))
        changes = int(generator.integers(1, 3))
        said = (
            plant(content, trace_of(folder), generator, changes) if way < 4 else spoil_tree(content, generator, changes)
        )
        header = text.splitlines(keepends=True)[0] if text.startswith(PACKAGE) else ""
        file.write_text(header + json.dumps(content), encoding="utf-8", errors="surrogatepass")
        return said
    if way == 6:
        name = str(pick(generator, tuple(TEXTS)))
        content = TEXTS[name](text, trace_of(folder))
        file.write_bytes(content.encode("utf-16" if name == "UTF-16" else "utf-8", "surrogatepass"))
        return name
    file.write_text(text, encoding="utf-8")
    return spoil_bytes(file, generator)


TEXTS: dict[str, Callable[[str, Path], str]] = {
    "a tag of Python": lambda text, trace: f"{text}\nmore: !!python/object/apply:os.mkdir [{trace}]\n",
    "nothing but a tag": lambda _, trace: f"!!python/object/apply:os.mkdir [{trace}]\n",
    "UTF-16": lambda text, _: text,
    "a byte order mark": lambda text, _: f"\ufeff{text}",
    "tabs": lambda text, _: text.replace("  ", "\t"),
    "a key twice": lambda text, _: f"{text}\nseed: 1\nseed: 2\n",
    "two documents": lambda text, _: f"{text}\n---\n{text}",
    "a list": lambda *_: "[1, 2]\n",
    "a number": lambda *_: "5\n",
    "nothing": lambda *_: "",
    "a merge key": lambda text, _: f"{text}\na: &a {{b: 1}}\nc: {{<<: *a}}\n",
    "an alias of itself": lambda text, _: f"{text}\na: &a [*a]\n",
    "defaults of nothing": lambda text, _: f"defaults: 5\n{text}",
    "defaults that are not there": lambda text, _: f"defaults: [{{nowhere: x}}, no_such]\n{text}",
    "defaults of its own": lambda text, _: f"defaults: [{NAME}, _self_]\n{text}",
    "defaults with an interpolation": lambda text, _: f"defaults: [{{data: '${{oc.env:HOSTILE_CANARY}}'}}]\n{text}",
    "another launcher": lambda text, _: f"defaults: [{{override /hydra/launcher: {NAME}}}]\n{text}",
    "package of the root": lambda text, _: f"{PACKAGE} _global_\n_target_: os.getcwd\nseed: x\n{text}",
    "keys that are no texts": lambda text, _: f"{text}\n1: 2\nnull: 3\n1.5: 4\ntrue: 5\n",
    "a hundred levels": lambda text, _: f"{text}\ndeep: {'{a: ' * 100}1{'}' * 100}\n",
    "three thousand levels": lambda *_: "[" * 3000 + "]" * 3000,
}
