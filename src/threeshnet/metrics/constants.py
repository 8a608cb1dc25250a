"""Numbers that a result depends on beside its inputs."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any


def constants(function: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of a function's keyword-only arguments: what it takes where nobody says otherwise.

    >>> def nearest(rows, *, k=10): ...
    >>> constants(nearest)
    {'k': 10}
    """
    asked = signature(function).parameters.values()
    return {one.name: one.default for one in asked if one.kind is Parameter.KEYWORD_ONLY}
