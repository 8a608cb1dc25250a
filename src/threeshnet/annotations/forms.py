"""Whether what a JSON file says has the form that is read from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any

Forms = Mapping[str, type | tuple[type, ...]]
NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list"}
NAMES |= {dict: "an object", NoneType: "null", object: "anything"}


def form_faults(entry: Any, forms: Forms, optional: Forms | None = None) -> Iterator[str]:
    """What in an object is missing or of another type; `optional` keys may be missing.

    >>> list(form_faults({"id": "7"}, {"id": int, "file_name": str}))
    ["id='7': expected a whole number", 'no `file_name`; it has id']
    """
    if not isinstance(entry, dict):
        yield f"expected an object, found {type(entry).__name__}"
        return
    for key, kinds in {**forms, **(optional or {})}.items():
        if key not in entry:
            if key in forms:
                yield f"no `{key}`; it has {', '.join(entry)[:200]}"
        elif not _is_one(entry[key], kinds if isinstance(kinds, tuple) else (kinds,)):
            yield f"{key}={repr(entry[key])[:100]}: expected {expected(kinds)}"
        elif isinstance(entry[key], str) and "\0" in entry[key]:
            yield f"{key}={entry[key][:100]!r}: a text with a zero byte in it"


def list_faults(content: Any, key: str, forms: Forms, optional: Forms | None = None) -> Iterator[str]:
    """What is wrong with the objects of the list `key` of an object."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        yield f"no list `{key}`"
        return
    for number, entry in enumerate(entries):
        yield from (f"{key}[{number}]: {fault}" for fault in form_faults(entry, forms, optional))


def expected(kinds: type | tuple[type, ...]) -> str:
    return " or ".join(NAMES[kind] for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))


def _is_one(value: Any, kinds: tuple[type, ...]) -> bool:
    """JSON's true is no number, and a whole number is a number too."""
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (float in kinds and isinstance(value, int))
