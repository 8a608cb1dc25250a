"""Extractors out of the recipe in a checkpoint, which may come from anywhere: classes of this package, plain values."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from threeshnet.errors import CheckpointError, Problems, shortened
from threeshnet.features.extractor import Extractor

PACKAGE = "threeshnet.features."
TARGET = "_target_"


def built(recipe: Mapping[str, Any]) -> Extractor:
    """The extractor of a recipe.

    Raises CheckpointError for a class that is no extractor of `threeshnet.features` and for a path of some machine: an
    untrusted recipe may name neither code nor files. What the extractor itself raises comes through.
    """
    problems = Problems("the recipe of an extractor in a checkpoint")
    problems.extend(faults(recipe))
    problems.raise_as(
        CheckpointError,
        "Give the extractor yourself: extractor=<name in conf/extractor>, a mapping with _target_, or an Extractor.",
    )
    return _built(recipe)


def faults(recipe: Mapping[str, Any]) -> Iterator[str]:
    """What in a recipe is not built."""
    if not isinstance(recipe.get(TARGET), str) or _kind(recipe[TARGET]) is None:
        yield f"{shortened(repr(recipe.get(TARGET)), 200)} is no extractor of {PACKAGE[:-1]}"
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            yield from faults(value)
        elif isinstance(value, str) and is_path(value):
            yield f"{key}={shortened(repr(value), 200)} is a path of the machine that made the shards"
        elif not _is_plain(value):
            yield f"{key} is of type {type(value).__name__}, and no plain value"


def is_path(text: str) -> bool:
    """Whether a text is an absolute path or leaves the folder it begins in; a name on the hub is neither.

    >>> is_path("facebook/dinov2-base"), is_path("/data/dinov2"), is_path("../dinov2"), is_path("~/m")
    (False, True, True, True)
    """
    absolute = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
    return absolute or ".." in PureWindowsPath(text).parts or text.startswith(("~", ".", "\\"))


def _built(node: Any) -> Any:
    if isinstance(node, Mapping):
        options = {str(key): _built(value) for key, value in node.items() if key != TARGET}
        kind = _kind(node[TARGET])
        assert kind is not None
        return kind(**options)
    return list(node) if isinstance(node, list | tuple) else node


def _kind(target: str) -> type[Extractor] | None:
    """The class that a target names, when it is defined in the package and is an extractor."""
    module, _, name = target.rpartition(".")
    if not target.startswith(PACKAGE) or not all(part.isidentifier() for part in target.split(".")):
        return None
    try:
        kind = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    own = isinstance(kind, type) and issubclass(kind, Extractor) and kind.__module__ == module
    return kind if own else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) and not isinstance(item, Mapping) for item in value)
    return isinstance(value, int | float | str | bool | None)
