"""Words that filter an index: by folder, date, size, and by what the segmentation holds and where it lies.

has:dog  count:dog>=2  share:sky>0.3  dog:left  sky:top  folder:holiday/2024  after:2024-01-31  larger:1MB
!has:dog                        not
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple, Protocol

import numpy as np

from threeshnet.errors import ConfigError, Problems

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
COMPARED = re.compile(r"(.+?)\s*(>=|<=|>|<|=)\s*([\d.]+)(%?)")
SIZE = re.compile(r"([\d.]+)\s*([KMG]?)B?", re.IGNORECASE)
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
NEAR, FAR = 0.4, 0.6  # a centre of mass before NEAR is left or top, behind FAR right or bottom, else in the centre
PLACES: dict[str, Callable[[Areas], np.ndarray]] = {
    "left": lambda areas: areas.x < NEAR,
    "right": lambda areas: areas.x > FAR,
    "top": lambda areas: areas.y < NEAR,
    "bottom": lambda areas: areas.y > FAR,
    "centre": lambda areas: (np.abs(areas.x - 0.5) <= FAR - 0.5) & (np.abs(areas.y - 0.5) <= FAR - 0.5),
}
SAME_PLACE = {"center": "centre", "middle": "centre", "above": "top", "below": "bottom"}
WORDS = (
    "has:<class>, count:<class>>=2, share:<class>>0.3, <class>:left|right|top|bottom|centre, folder:<path>, "
    "after:2024-01-31, before:2024-01-31, larger:1MB, smaller:1MB; ! before a word means not"
)


class Areas(NamedTuple):
    """The connected areas of all items, [m] each: the item's row, class number, share of the photo and centre."""

    row: np.ndarray
    number: np.ndarray
    share: np.ndarray
    x: np.ndarray
    y: np.ndarray


class Filtered(Protocol):
    """What filters read of an index."""

    @property
    def class_names(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def column(self, name: str) -> np.ndarray:
        """A column of `rows.SCHEMA`, [n]."""
        ...

    def read_areas(self) -> Areas: ...


class Condition(NamedTuple):
    """One word, read."""

    kind: str  # has, count, share, place, folder, or one of LIMITS
    negated: bool = False
    classes: tuple[int, ...] = ()
    sign: str = ">"
    number: float = 0.0
    text: str = ""  # a place or a folder


def conditions_of(words: Sequence[str], class_names: Sequence[str]) -> list[Condition]:
    """What the words ask for.  Raises ConfigError, once for all words."""
    problems, conditions = Problems("filters"), []
    for word in words:
        try:
            condition = _condition(word.removeprefix("!").strip(), class_names)
            conditions.append(condition._replace(negated=word.startswith("!")))
        except ValueError as error:
            problems.add(f"{word!r}: {error}")
    problems.raise_as(ConfigError, f"There are: {WORDS}.")
    return conditions


def allowed_rows(words: Sequence[str], index: Filtered) -> np.ndarray | None:
    """Which rows all `words` let through, [n] bool; None without words.  Raises ConfigError, once for all words."""
    masks = [_mask(condition, index) ^ condition.negated for condition in conditions_of(words, index.class_names)]
    return np.logical_and.reduce(masks) if masks else None


def _mask(condition: Condition, index: Filtered) -> np.ndarray:
    """[n] bool, before a negation."""
    if condition.kind in LIMITS:
        return COMPARISONS[condition.sign](index.column(LIMITS[condition.kind][0]), condition.number)
    if condition.kind == "folder":
        files = index.column("file")
        return np.array([file is not None and f"{file}/".startswith(f"{condition.text}/") for file in files], bool)
    areas = index.read_areas()
    inside = np.isin(areas.number, condition.classes)
    if condition.kind == "place":
        inside &= PLACES[condition.text](areas)
    weights = areas.share[inside] if condition.kind == "share" else np.ones(int(inside.sum()))
    amounts = np.bincount(areas.row[inside], weights, minlength=len(index))
    return COMPARISONS[condition.sign](amounts, condition.number)


def _condition(word: str, class_names: Sequence[str]) -> Condition:
    """ValueError for what is no filter."""
    head, colon, tail = word.partition(":")
    head, tail = head.strip(), tail.strip()
    kind = head.lower()
    if not colon or not tail:
        raise ValueError("no such filter")
    if kind == "folder":
        return Condition(kind, text=tail.strip("/"))
    if kind in LIMITS:
        _, sign, read = LIMITS[kind]
        return Condition(kind, sign=sign, number=read(tail))
    if kind == "has":
        return Condition(kind, classes=classes_of(tail, class_names))
    if kind in ("count", "share"):
        compared = COMPARED.fullmatch(tail)
        if compared is None:
            raise ValueError(f"expected a comparison, as {kind}:{tail}>{'=2' if kind == 'count' else '0.3'}")
        name, sign, number, percent = compared.groups()
        return Condition(kind, False, classes_of(name, class_names), sign, _number(number) / (100 if percent else 1))
    place = SAME_PLACE.get(tail.lower(), tail.lower())
    if place not in PLACES:
        raise ValueError(f"no such filter, and {tail!r} is no place; places are: {', '.join(PLACES)}")
    return Condition("place", classes=classes_of(head, class_names), text=place)


def classes_of(text: str, names: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the classes that a word names: the one of this name, else all with the word in their name.

    Raises ValueError with the nearest names.

    >>> classes_of("Dog", ["cat", "dog"]), classes_of("wall", ["wall-brick", "wall-stone", "dog"])
    ((1,), (0, 1))
    """
    if not names:
        raise ValueError("the index has no segmentation with class names")
    wanted = text.lower()
    lower = [name.lower() for name in names]
    numbers = tuple(number for number, name in enumerate(lower) if name == wanted)
    numbers = numbers or tuple(number for number, name in enumerate(lower) if wanted in re.split(r"[^\w]+", name))
    if numbers:
        return numbers
    words = sorted({word for name in lower for word in (name, *re.split(r"[^\w]+", name)) if word})
    near = difflib.get_close_matches(wanted, words, 5, 0.5)
    shown = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names[:20])}"
    raise ValueError(f"there is no class {text!r}; {shown}")


def _seconds(text: str) -> float:
    try:
        day = date.fromisoformat(text if text.count("-") == 2 else f"{text}-01" if "-" in text else f"{text}-01-01")
    except ValueError as error:
        raise ValueError(f"{text!r} is no day, as 2024-01-31, 2024-01 or 2024") from error
    return datetime(day.year, day.month, day.day).timestamp()


def _bytes(text: str) -> float:
    size = SIZE.fullmatch(text)
    if size is None:
        raise ValueError(f"{text!r} is no size, as 500KB or 1MB")
    return _number(size[1]) * UNITS[size[2].upper()]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no number") from error


LIMITS: dict[str, tuple[str, str, Callable[[str], float]]] = {  # word -> column, sign, how its value is read
    "after": ("taken", ">=", _seconds),
    "before": ("taken", "<", _seconds),
    "larger": ("bytes", ">", _bytes),
    "smaller": ("bytes", "<", _bytes),
}
