"""What Hydra failed at where it does not say so itself: a file of a user's own `conf/`, or an interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from threeshnet.errors import Problems, shortened
from threeshnet.installation import own_conf

MOST_LEVELS = 50  # of values in each other: OmegaConf visits each level several calls deep
TOO_DEEP = f"more than {MOST_LEVELS} levels, or an alias of itself"
DEFAULTS = "defaults"


def cause_of(error: Exception, words: Sequence[str]) -> str:
    """The reason of an error without a message, and the words of the command line that it may be about."""
    given = ", ".join(word for word in words if "${" in word)
    return f"{error.__cause__ or type(error).__name__}{f' ({given})' if given else ''}"


def own_conf_faults() -> str | None:
    """Every file of the own `conf/` that is no configuration, with the reason; None without one."""
    folder = own_conf()
    problems = Problems("files of conf/ that cannot be used")
    for file in sorted(folder.rglob("*.yaml")) if folder else ():
        if fault := _fault(file):
            problems.add(f"{file.relative_to(folder.parent)}: {fault}")  # pyright: ignore[reportOptionalMemberAccess]
    return problems.text("They are YAML in UTF-8 that holds names with their values.") if problems else None


def _fault(file: Path) -> str | None:
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(file))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        return TOO_DEEP if "recursion" in text else shortened(text, 300)
    if not isinstance(content, dict):
        return f"holds a {type(content).__name__}, no names with values"
    if not all(isinstance(key, str) for key in content):
        return f"names that are no texts: {shortened(str([key for key in content if not isinstance(key, str)]), 100)}"
    if _levels(content) > MOST_LEVELS:
        return TOO_DEEP
    return _defaults_fault(content[DEFAULTS]) if DEFAULTS in content else None


def _levels(content: Any) -> int:
    """How deep values lie in each other."""
    deepest, level = 0, [content]
    while level and deepest <= MOST_LEVELS:
        deepest += 1
        inner = [node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list)]
        level = [child for children in inner for child in children]
    return deepest


def _defaults_fault(entries: Any) -> str | None:
    if not isinstance(entries, list) or not all(isinstance(entry, str) or _is_choice(entry) for entry in entries):
        return f"`{DEFAULTS}` is no list of names and of groups with a name"
    return None


def _is_choice(entry: Any) -> bool:
    """Whether an entry chooses of one group: a file, none, or several."""
    if not isinstance(entry, dict) or len(entry) != 1:
        return False
    (chosen,) = entry.values()
    return isinstance(chosen, str | None) or (isinstance(chosen, list) and all(isinstance(one, str) for one in chosen))
