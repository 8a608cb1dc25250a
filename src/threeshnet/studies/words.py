"""Words of Hydra's command line."""

from __future__ import annotations

import re
from pathlib import Path


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
