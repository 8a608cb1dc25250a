"""results.csv of a study: one row a run, and the groups and levels in it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from threeshnet.errors import DataError
from threeshnet.evaluation.model_card import RECALLS

Row = dict[str, str]

NUMBERS = (*(f"{side}_r{cutoff}" for side, cutoff in RECALLS), "rsum")
WHICH = ("experiment", "setting", "job")
WHERE = ("seed", "data", "split", "images", "captions", "protocol")
HOW = ("features", "dev_rsum", "epochs", "steps", "batch", "recipe", "selection", "precision", "parameters")
HOW += ("resumed_at_step", "devices")
PROVENANCE = ("minutes", "machine", "checkpoint", "commit", "fingerprint", "identity", "derived_from")
FIXED = (*WHICH, *WHERE, *NUMBERS, *HOW, *PROVENANCE)
REQUIRED = (
    *WHICH,
    *WHERE,
    *NUMBERS,
    "features",
    "batch",
    "selection",
    "machine",
    "checkpoint",
    "commit",
    "fingerprint",
    "identity",
)
CORES = "CPU cores"  # as machines say how many they have
OF_TRAINING = ("epochs", "steps", "minutes")  # that a derived row has not, scored from finished runs


def columns(rows: Sequence[Mapping[str, str]], factors: Sequence[str]) -> list[str]:
    """The columns of a table: which run, the study's factors and others that rows have, then the facts."""
    own = [factor for factor in factors if factor not in FIXED]
    return [*WHICH, *own, *other_factors(rows, factors), *(name for name in FIXED if name not in WHICH)]


def other_factors(rows: Sequence[Mapping[str, str]], factors: Sequence[str]) -> list[str]:
    """Factors that rows have beside those of the study, as the command line may bring them."""
    return sorted({key for row in rows for key in row} - {*FIXED, *factors})


def lacking(row: Mapping[str, str]) -> list[str]:
    """What a row must say and does not."""
    needed = list(REQUIRED)
    if not row.get("derived_from"):
        needed += [*OF_TRAINING, *(["dev_rsum"] if row.get("selection") == "best" else [])]
    return [name for name in needed if row.get(name, "") in ("", "unknown")]


def device(row: Mapping[str, str]) -> str:
    """The kind of processor that a run was on, however many of it: numbers of two kinds are not compared.

    >>> device({"machine": "2 CPU cores"}), device({"machine": "1 x NVIDIA H100, 16 CPU cores"})
    ('CPU', 'NVIDIA H100')
    """
    parts = [part for part in row.get("machine", "").split(", ") if not part.endswith(CORES)]
    return " and ".join(part.partition(" x ")[2] or part for part in parts) or "CPU"


def read_rows(file: Path) -> list[Row]:
    """The rows of a CSV file, none where there is no file."""
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def groups(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by experiment and setting, which are never averaged together."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["experiment"], row["setting"])):
        found.setdefault((row["experiment"], row["setting"]), []).append(row)
    return found


def place(names: Sequence[str], order: Mapping[str, Sequence[str]]) -> list[tuple[int, str]]:
    """Where a combination of levels stands in the study's order; levels that it does not know come last, by name.

    >>> sorted([["b"], ["x"], ["a"]], key=lambda names: place(names, {"factor": ["b", "a"]}))
    [['b'], ['a'], ['x']]
    """
    return [
        (list(levels).index(name) if name in levels else len(levels), name)
        for name, levels in zip(names, order.values(), strict=True)
    ]


def _levels(row: Row, order: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    return tuple(row.get(factor, "") for factor in order)


def by_level(rows: Sequence[Row], order: Mapping[str, Sequence[str]]) -> dict[tuple[str, ...], list[Row]]:
    """Rows by their levels of the factors, in the study's order, each by seed.  Raises DataError for a seed twice."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (place(_levels(row, order), order), int(row["seed"]))):
        found.setdefault(_levels(row, order), []).append(row)
    for levels, of in found.items():
        seeds = [row["seed"] for row in of]
        if len(set(seeds)) < len(seeds):
            raise DataError(
                f"{of[0]['experiment']}, {'+'.join(levels) or 'all'}: seeds {' '.join(seeds)}, one of them twice"
            )
    return found


def label(levels: Sequence[str]) -> str:
    """The name of a combination of levels."""
    return "+".join(levels) or "all"
