"""Words of Hydra's command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


def literal(value: object) -> str:
    """Any text for a place where OmegaConf follows `${…}`: it reads this back as it is.

    >>> print(literal("a ${b}"))
    a \\${b}
    """
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", str(value))


def quoted(value: object) -> str:
    """Any text as Hydra reads it back, whatever it holds: `${…}` is no interpolation then.

    >>> print(quoted('a "b", c=1'), quoted("${x}"))
    "a \\"b\\", c=1" "\\${x}"
    """
    escaped = re.sub(r'(\\*)"', lambda found: found[1] * 2 + '\\"', literal(value))
    closed = re.sub(r"(\\+)$", r"\1\1", escaped)  # a backslash before the last quote would escape that
    return f'"{closed}"'


def text(key: str, value: str | Path) -> str:
    """`key="value"`."""
    return f"{key}={quoted(value)}"


def listed(key: str, values: list[str]) -> str:
    """`key=["value",…]`."""
    return f"{key}=[{','.join(map(quoted, values))}]"


def divided(words: Sequence[str], own: Sequence[str]) -> list[str]:
    """The words of a command line with those that are not this command's `own` put together as its `overrides`.

    What Hydra cannot read is left as it is, for Hydra to say so.
    """
    from hydra._internal.utils import get_args_parser  # half a second, which a search does without
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    given = get_args_parser().parse_intermixed_args(list(words)).overrides
    flags = [word for word in words if word not in given]  # and their values
    try:
        parsed = OverridesParser.create().parse_overrides(given)
    except OverrideParseException:
        return list(words)
    theirs = [
        o.input_line or "" for o in parsed if o.get_key_element().lstrip("+~").split(".")[0] not in (*own, "hydra")
    ]
    kept = [word for word in given if word not in theirs]
    return [*kept, *([listed("overrides", theirs)] if theirs else []), *flags]  # Hydra wants flags outside
