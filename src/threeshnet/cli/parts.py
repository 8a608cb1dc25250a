"""Values of parts are checked by the signatures of their classes, before any of them is built."""

from __future__ import annotations

import inspect
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from threeshnet.errors import one_of
from threeshnet.settings import SIZES, faults

OURS = "threeshnet."
OF_HYDRA = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")
WHOLE_NUMBERS = range(-(2**63), 2**63)


def part_faults(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The keys below a node whose values their classes do not take, each with what is wrong.

    Numbers are checked wherever they stand: computers have 64 bits for one, and `nan` is none.
    """
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield from _signature_faults(node, key)
        for name, value in node.items():
            yield from part_faults(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for value in node:
            yield from part_faults(value, key)
    elif isinstance(node, float) and not math.isfinite(node):
        yield key, f"{key}={node}: expected a number"
    elif isinstance(node, int) and node not in WHOLE_NUMBERS:
        yield key, f"{key}={node}: expected a whole number of 64 bits"


def _signature_faults(part: Mapping[str, Any], key: str) -> Iterator[tuple[str, str]]:
    """Other packages' classes know best which names they take; the types that they declare hold here too."""
    ours = part["_target_"].startswith(OURS)
    try:
        module, _, name = part["_target_"].rpartition(".")
        target = getattr(import_module(module), name)
        parameters = inspect.signature(target).parameters
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        if ours:
            yield f"{key}._target_", f"{key}._target_={part['_target_']!r} does not exist ({_last_line(error)})"
        return
    hints = _hints(target)
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    for name, value in part.items():
        if name in OF_HYDRA or _holds_parts(value) or (isinstance(value, str) and value in SIZES):
            continue
        if ours and name not in parameters and not takes_any:
            yield f"{key}.{name}", one_of(f"{key}: the setting", name, parameters)
        elif name in hints and (ours or not _is_choice(hints[name], value)):
            yield from _type_faults(hints[name], value, f"{key}.{name}")


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError):  # hints that are there for type checkers alone
        return {}


def _is_choice(hint: Any, value: Any) -> bool:
    return isinstance(value, str | int) and "Literal[" in str(hint)


def _holds_parts(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(_holds_parts, value.values()))
    return isinstance(value, list) and any(map(_holds_parts, value))


def _type_faults(hint: Any, value: Any, key: str) -> Iterator[tuple[str, str]]:
    """As JSON: there a list is a tuple too, and a text a path."""
    try:
        with warnings.catch_warnings(action="ignore"):
            form = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True, strict=True))
            form.validate_json(json.dumps(value))
    except ValidationError as error:
        yield from faults(error, key).items()
    except (PydanticUserError, NameError):  # a hint that says nothing of values in a file
        return


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1][:200]
