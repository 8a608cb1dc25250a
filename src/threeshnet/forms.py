"""Input validation of JSON files: their form is declared with pydantic, and what is wrong is said in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

PlainText = Annotated[str, Field(pattern=r"^[^\x00]*$")]  # no zero bytes: a name goes to the operating system
KINDS = {"string": "a text", "int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list"}
KINDS |= {"dict": "an object", "none": "null"}
UNION_STEPS = ("int", "float", "str", "bool", "list", "dict", "none", "constrained-str", "")  # of pydantic's paths


def json_faults(form: TypeAdapter[Any], content: Any) -> list[str]:
    """What in the content of a JSON file is missing or of another type than `form` declares.

    >>> json_faults(TypeAdapter(dict[str, list[int]]), {"ids": [7, "8"]})
    ["ids[1]='8': expected a whole number"]
    """
    try:
        form.validate_python(content, strict=True)
    except ValidationError as error:
        return faults_of(error)
    return []


def faults_of(error: ValidationError) -> list[str]:
    """What pydantic found, in plain words: each with key, value and what was expected."""
    faults: dict[str, list[str]] = {}
    for where, fault in map(_plain_words, error.errors(include_url=False)):
        faults.setdefault(where, []).append(fault)  # several of one value: none of the types it may have
    return [where + " or ".join(dict.fromkeys(several)) for where, several in faults.items()]


def _plain_words(fault: Any) -> tuple[str, str]:
    """Where a fault is, with the value, and what was expected there."""
    kind, value = fault["type"], fault["input"]
    path = [step for step in fault["loc"] if isinstance(step, int) or step.partition("[")[0] not in UNION_STEPS]
    if kind == "missing" and isinstance(path[-1], int):
        return f"{_joined(path[:-1])}={repr(value)[:100]}: expected {path[-1] + 1} values or more", ""
    if kind == "missing":
        others = ", ".join(map(str, value))[:200] if isinstance(value, Mapping) else ""
        return f"{_joined(path[:-1])}{': ' if path[1:] else ''}no `{path[-1]}`; it has {others or 'nothing'}", ""
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{_joined(path)[:200]} is not a part of it", ""
    if kind == "value_error":
        return f"{_joined(path)}{': ' if path else ''}{fault['ctx']['error']}", ""
    where = f"{_joined(path)}={repr(value)[:100]}" if path else f"found {type(value).__name__}"
    if kind == "literal_error":
        names = fault["ctx"]["expected"].replace(" or ", ", ").replace("'", "")
        return where, f" does not exist; there are: {names}"
    if kind == "string_pattern_mismatch":
        return where, ": a text with a zero byte in it"
    kind = kind.removesuffix("_type").removesuffix("_required")
    return f"{where}: expected ", KINDS.get(kind) or fault["msg"].removeprefix("Input should be ")


def _joined(path: list[str | int]) -> str:
    """A path in a JSON file: `images[3]: sentences[0]`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f"{': ' if text else ''}{step}"
    return text
