"""The package is a street of one direction: a package imports from its left and from the leaves, and nowhere else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "threeshnet"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 300  # lines of a file; more is two files

# Neighbours on one line do not know each other.
ORDER = (
    ("annotations",),
    ("demo",),
    ("features",),
    ("shards",),
    ("batches",),
    ("fusion", "pooling"),
    ("encoders",),
    ("objectives", "metrics"),
    ("runs",),
    ("training",),
    ("evaluation",),
    ("explanations",),
    ("pretrained",),
    ("retriever",),
    ("export",),
    ("index",),
    ("studies",),
    ("reports",),
    ("app",),
    ("cli",),
)
LEAVES = ("records", "errors", "files", "forms", "installation", "overrides", "processes", "settings", "threads", "nn")
FRONT_DOOR = "__init__"  # of threeshnet itself: it offers the parts to users and is imported by none of them
PLACE = {part: place for place, parts in enumerate(ORDER) for part in parts}


def part_of(file: Path) -> str:
    """The package directly below `threeshnet` that a file belongs to, or the module's own name."""
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_modules(source: str, module: tuple[str, ...]) -> Iterator[str]:
    """Absolute names of what a source imports, wherever it does; `module` is the package that the source lies in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            upwards = module[: len(module) - node.level + 1] if node.level else ()
            base = ".".join([*upwards, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imported_parts(source: str, module: tuple[str, ...] = ("threeshnet",)) -> Iterator[str]:
    """The parts of `threeshnet` that a source imports; what only the front door holds counts as the front door."""
    for name in imported_modules(source, module):
        head, _, rest = name.partition(".")
        if head == "threeshnet":
            part = rest.split(".")[0]
            yield part if part in PLACE or part in LEAVES else FRONT_DOOR


def may_import(importer: str, imported: str) -> bool:
    if importer in (imported, FRONT_DOOR, "__main__") or imported in LEAVES:
        return True
    if importer in LEAVES or imported == FRONT_DOOR:
        return False
    return PLACE[imported] < PLACE[importer]


def names(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


def test_every_part_has_its_place() -> None:
    parts = {part_of(file) for file in FILES}
    strangers = parts - set(PLACE) - set(LEAVES) - {FRONT_DOOR, "__main__"}
    assert not strangers, f"give {sorted(strangers)} a place in ORDER of {__file__}"


@pytest.mark.parametrize("file", FILES, ids=names)
def test_imports_point_left(file: Path) -> None:
    module = ("threeshnet", *file.parent.relative_to(PACKAGE).parts)
    wrong = {part for part in imported_parts(file.read_text("utf-8"), module) if not may_import(part_of(file), part)}
    assert not wrong, f"{names(file)} must not import {sorted(wrong)}"


@pytest.mark.parametrize(
    ("importer", "source", "allowed"),
    [
        ("shards", "from threeshnet.features.tiny import Tiny", True),
        ("features", "from threeshnet.shards import writer", False),
        ("features", "def late():\n    import threeshnet.shards.writer", False),
        ("fusion", "from threeshnet.pooling.mean import Mean", False),
        ("fusion", "from threeshnet import nn, records", True),
        ("fusion", "from threeshnet import TokenSet", False),
        ("fusion", "from ..encoders import image", False),
        ("nn", "from ..records import TokenSet", True),
        ("nn", "from ..metrics import ranks", False),
        ("cli", "import torch, threeshnet.evaluation.table", True),
    ],
)
def test_the_rule_itself(importer: str, source: str, allowed: bool) -> None:
    assert all(may_import(importer, part) for part in imported_parts(source, ("threeshnet", importer))) is allowed


def test_transformers_are_imported_from_their_modules() -> None:
    """The package itself names every model, and pyright reads them all: 52 processor seconds instead of 36."""
    doors = [names(file) for file in FILES if re.search(r"^\s*from transformers import", file.read_text("utf-8"), re.M)]
    assert not doors, f"{doors}: name the module, as in `from transformers.models.bert.modeling_bert import BertModel`"


@pytest.mark.parametrize("file", FILES, ids=names)
def test_the_configuration_is_read_at_the_door_alone(file: Path) -> None:
    if part_of(file) != "cli":
        assert not re.search(r"\bcfg\b|DictConfig", file.read_text("utf-8")), f"{names(file)}: take typed settings"


@pytest.mark.parametrize("file", FILES, ids=names)
def test_a_file_is_short_and_silent(file: Path) -> None:
    source = file.read_text("utf-8")
    lines = len(source.splitlines())
    assert lines <= LONGEST, f"{names(file)} has {lines} lines, more than {LONGEST}: divide it"
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    printed = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not printed, f"{names(file)} prints in line {printed}: use logging, or rich in a command"
