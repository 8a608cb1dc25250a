"""Input validation of settings: by the models in `threeshnet.settings`, of parts by the signatures of their classes."""

from __future__ import annotations

import inspect
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from threeshnet import settings as models
from threeshnet.errors import one_of
from threeshnet.forms import KINDS, UNION_STEPS
from threeshnet.settings import SIZES, Settings
from threeshnet.settings.base import A_PART

OURS = "threeshnet."
PARTS = ("annotations", "demo", "features", "batches", "fusion", "pooling", "encoders", "nn", "objectives", "training")
OF_HYDRA = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")
TRAINER_KEYS = ("accelerator", "devices", "strategy", "precision", "max_epochs", "max_steps", "accumulate_grad_batches")
TRAINER_KEYS += ("sync_batchnorm", "compile")  # that the suite reads itself
FLAGS = ("_partial_", "_recursive_")
WHOLE_NUMBERS = range(-(2**63), 2**63)
MISSING, UNKNOWN = "is missing", "is not a setting"


def setting_faults(verb: str, tree: dict[str, Any]) -> dict[str, str]:
    """What is wrong with a verb's settings, by key; a value that is used in several places is named once."""
    return validated(verb, tree)[1]


def validated(verb: str, tree: dict[str, Any]) -> tuple[Settings | None, dict[str, str]]:
    """The settings of a verb where their types are right, and what is wrong with them by key."""
    settings, faults = None, {}
    tree = without_target(tree)
    try:
        settings = model_of(verb).model_validate(tree)
    except ValidationError as error:
        faults = type_faults(error)
    if verb == "train" and isinstance(trainer := tree.get("trainer"), Mapping):
        faults |= {f"trainer.{key}": f"trainer.{key} {MISSING}" for key in TRAINER_KEYS if key not in trainer}
    by_depth = sorted(part_faults(tree), key=lambda fault: fault[0].count("."))
    said = {_last_name(text) for text in faults.values()}
    for key, text in by_depth:
        if key not in faults and _last_name(text) not in said:
            faults[key] = text
            said.add(_last_name(text))
    texts = {key: f"{text}{_siblings(key, tree)}" if text.endswith(UNKNOWN) else text for key, text in faults.items()}
    return settings, texts


def model_of(verb: str) -> type[Settings]:
    """`TrainSettings` of `train`."""
    model: type[Settings] = getattr(models, f"{verb.title()}Settings")
    return model


def without_target(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key != "_target_"}


def _last_name(text: str) -> str:
    """`dim='a': expected …` of `parts.scene.dim='a': expected …`."""
    key, equals, rest = text.partition("=")
    return f"{key.rpartition('.')[2]}{equals}{rest}"


def _siblings(key: str, tree: dict[str, Any]) -> str:
    """The other settings of the group that an unknown one was put into."""
    *above, name = key.split(".")
    group: Any = tree
    for step in above:
        if step not in group:  # the name has dots in it
            return ""
        group = group[step]
    others = ", ".join(other for other in group if other != name)
    where = f"in {'.'.join(above)} " if above else ""
    return f"; {where}there are: {others}"


def type_faults(error: ValidationError, prefix: str = "") -> dict[str, str]:
    """The key of each setting that pydantic refused, with what is wrong there."""
    expected: dict[str, list[str]] = {}
    shown: dict[str, str] = {}
    for fault in error.errors(include_url=False):
        steps = [str(step) for step in fault["loc"] if str(step).partition("[")[0] not in (*UNION_STEPS, "literal")]
        key = ".".join([*([prefix] if prefix else []), *steps])
        shown[key] = f"{key}={'null' if fault['input'] is None else repr(fault['input'])[:100]}"
        expected.setdefault(key, []).append(_expected(key, fault))
    return {key: _joined(key, shown[key], several) for key, several in expected.items()}


def _expected(key: str, fault: Any) -> str:
    kind, value = fault["type"], fault["input"]
    if kind in ("missing", "extra_forbidden"):
        return MISSING if kind == "missing" else UNKNOWN
    if kind == "literal_error":
        return fault["ctx"]["expected"].replace("'", "")
    if kind == "finite_number":
        return KINDS["float"]
    if kind == "needs_python_object":
        return A_PART
    expected: str = KINDS.get(kind.removesuffix("_type").removesuffix("_required")) or fault["msg"]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"""{expected} (in quotes: '{key}="{value}"')""" if kind == "string_type" and number else expected


def _joined(key: str, shown: str, expected: list[str]) -> str:
    if expected[0] in (MISSING, UNKNOWN):
        return f"{key} {expected[0]}"
    kinds = [kind for kind in dict.fromkeys(expected) if not (kind == KINDS["int"] and KINDS["float"] in expected)]
    return f"{shown}: expected {' or '.join(kinds)}"


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
    """Other packages' classes know best which names they take; the types that they declare hold here too.

    A `_partial_` one would say so when it is called, in the middle of the work, so its names are checked here.
    """
    ours, later = part["_target_"].startswith(OURS), part.get("_partial_") is True
    for flag in FLAGS:
        if not isinstance(part.get(flag, False), bool):
            yield f"{key}.{flag}", f"{key}.{flag}={part[flag]!r}: expected {KINDS['bool']}"
            return
    try:
        module, _, name = part["_target_"].rpartition(".")
        if module.partition(".")[0] in sys.stdlib_module_names:
            yield f"{key}._target_", f"{key}._target_={part['_target_']!r}: the standard library has no parts"
            return
        target = getattr(import_module(module), name)
        parameters = inspect.signature(target).parameters
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        if ours:
            yield f"{key}._target_", f"{key}._target_={part['_target_']!r} does not exist ({_last_line(error)})"
        return
    if fault := _no_part(target, ours=ours, later=later):
        yield f"{key}._target_", f"{key}._target_={part['_target_']!r} {fault}"
        return
    hints = _hints(target)
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    for name, value in part.items():
        if name in OF_HYDRA or _holds_parts(value) or (isinstance(value, str) and value in SIZES):
            continue
        if (ours or later) and name not in parameters and not takes_any:
            yield f"{key}.{name}", one_of(f"{key}: the setting", name, parameters)
        elif name in hints and (ours or not _is_choice(hints[name], value)):
            yield from _type_faults(hints[name], value, f"{key}.{name}")


def _no_part(target: Any, *, ours: bool, later: bool) -> str | None:
    """Why something is no part: a mistake in a yaml must not call any function. Where it is defined counts."""
    if ours:
        homes = tuple(f"{OURS}{package}" for package in PARTS)
        defined = str(getattr(target, "__module__", ""))
        return None if defined.startswith(homes) else f"is no part; they are defined in {OURS}{{{','.join(PARTS)}}}"
    return None if inspect.isclass(target) or later else "is a function of another package, where a part is a class"


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
        yield from type_faults(error, key).items()
    except (PydanticUserError, NameError):  # a hint that says nothing of values in a file
        return


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1][:200]
