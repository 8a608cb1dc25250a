"""Image ids of different publishers that mean the same photo."""

from __future__ import annotations

import re
from collections.abc import Sequence

from threeshnet.annotations.photo_files import PHOTO_SUFFIXES

FLOAT = re.compile(r"(\d+)\.0")  # a column of numbers with a gap, as pandas writes it
COCO_FILE = re.compile(r"COCO_(?:train|val|test)\d{4}_(\d+)")


def normal_id(name: str) -> str:
    """The part of an id that publishers agree on: no folder, no ending, COCO's number, no leading zeros, no `.0`.

    >>> [normal_id(name) for name in ("val2014/COCO_val2014_000000391895.jpg", "000000391895", "391895.0", "a/b.c.jpg")]
    ['391895', '391895', '391895', 'b.c']
    """
    bare = name.rsplit("/", 1)[-1]
    stem, dot, ending = bare.rpartition(".")
    bare = stem if dot and f".{ending.lower()}" in PHOTO_SUFFIXES else bare
    coco = COCO_FILE.fullmatch(bare) or FLOAT.fullmatch(bare)
    number = coco.group(1) if coco else bare
    return (number.lstrip("0") or "0") if number.isascii() and number.isdigit() else number


def matched_ids(wanted: Sequence[str], there: Sequence[str]) -> tuple[dict[str, str], bool]:
    """For each wanted id the one that means the same photo, and whether ids had to be normalised for it.

    As they are where that matches all it can; normalised only where more match so and no two photos become one.
    """
    available = set(there)
    exact = {name: name for name in wanted if name in available}
    if len(exact) == min(len(wanted), len(available)):
        return exact, False
    by_normal = {normal_id(name): name for name in there}
    distinct = len(by_normal) == len(available) and len({normal_id(name) for name in wanted}) == len(set(wanted))
    loose = {name: by_normal[normal_id(name)] for name in wanted if normal_id(name) in by_normal}
    return (loose, True) if distinct and len(loose) > len(exact) else (exact, False)
