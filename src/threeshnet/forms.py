"""Input validation of JSON files: their form is declared with pydantic, and what is wrong is said in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

PlainText = Annotated[str, Field(pattern=r"^[^\x00]*$")]  # no zero bytes: a name goes to the operating system
KINDS = {"string": "a text", "int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list"}
KINDS |= {"dict": "an object", "none": "null"}
UNION_STEPS = ("int", "float", "str", "bool", "list", "dict", "none", "constrained-str")  # of pydantic's paths


def json_faults(form: TypeAdapter[Any], content: Any) -> list[str]:
    """What in the content of a JSON file is missing or of another type than `form` declares.

    >>> json_faults(TypeAdapter(dict[str, list[int]]), {"ids": [7, "8"]})
    ["ids[1]='8': expected a whole number"]
    """
    try:
        form.validate_python(content, strict=True)
    except ValidationError as error:
        faults: dict[str, list[str]] = {}
        for where, fault in map(_plain_words, error.errors(include_url=False)):
            faults.setdefault(where, []).append(fault)  # several of one value: none of the types it may have
        return [where + " or ".join(dict.fromkeys(several)) for where, several in faults.items()]
    return []


def _plain_words(fault: Any) -> tuple[str, str]:
    """Where a fault is, with the value, and what was expected there."""
    kind, value = fault["type"], fault["input"]
    path = [step for step in fault["loc"] if isinstance(step, int) or step.partition("[")[0] not in UNION_STEPS]
    if kind == "missing":
        others = ", ".join(map(str, value))[:200] if isinstance(value, Mapping) else ""
        return f"{_joined(path[:-1])}{': ' if path[1:] else ''}no `{path[-1]}`; it has {others or 'nothing'}", ""
    where = f"{_joined(path)}={repr(value)[:100]}" if path else f"found {type(value).__name__}"
    if kind == "literal_error":
        names = fault["ctx"]["expected"].replace(" or ", ", ").replace("'", "")
        return where, f" does not exist; there are: {names}"
    if kind == "string_pattern_mismatch":
        return where, ": a text with a zero byte in it"
    return f"{where}: expected ", KINDS.get(kind.removesuffix("_type").removesuffix("_required"), fault["msg"])


def _joined(path: list[str | int]) -> str:
    """A path in a JSON file: `images[3]: sentences[0]`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f"{': ' if text else ''}{step}"
    return text


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
