"""Words of Hydra's command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser


def quoted(value: object) -> str:
    """Any text as Hydra reads it back, whatever it holds.

    >>> print(quoted('a "b", c=1'))
    "a \\"b\\", c=1"
    """
    escaped = re.sub(r'(\\*)"', lambda found: found[1] * 2 + '\\"', str(value))
    closed = re.sub(r"(\\+)$", r"\1\1", escaped)  # a backslash before the last quote would escape that
    return f'"{closed}"'


def text(key: str, value: str | Path) -> str:
    """`key="value"`."""
    return f"{key}={quoted(value)}"


def listed(key: str, values: list[str]) -> str:
    """`key=["value",…]`."""
    return f"{key}=[{','.join(map(quoted, values))}]"


def divided(words: Sequence[str], own: Sequence[str]) -> list[str]:
    """The words of a command line with those that are not this command's `own` put together as its `overrides`."""
    parsed = OverridesParser.create().parse_overrides([word for word in words if not word.startswith("-")])
    theirs = [
        o.input_line or "" for o in parsed if o.get_key_element().lstrip("+~").split(".")[0] not in (*own, "hydra")
    ]
    return [*(word for word in words if word not in theirs), *([listed("overrides", theirs)] if theirs else [])]
