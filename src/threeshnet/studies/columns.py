"""results.csv of a study: one row per run, and the columns of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from threeshnet.evaluation.model_card import RECALLS

Row = dict[str, str]
RESULTS = "results.csv"  # of a study, in experiments/<study>/

NUMBERS = (*(f"{side}_r{cutoff}" for side, cutoff in RECALLS), "rsum")
WHICH = ("experiment", "setting", "job")
WHERE = ("seed", "data", "split", "images", "captions", "protocol")
HOW = ("features", "dev_rsum", "epochs", "steps", "batch", "recipe", "selection", "precision", "parameters")
HOW += ("resumed_at_step", "devices")
PROVENANCE = ("minutes", "machine", "checkpoint", "commit", "fingerprint", "identity", "derived_from")
FIXED = (*WHICH, *WHERE, *NUMBERS, *HOW, *PROVENANCE)
OF_A_TABLE = (*WHICH, *WHERE, *NUMBERS, "batch", "selection", "machine", "checkpoint")  # the least of a committed row
REQUIRED = (*OF_A_TABLE, "features", "commit", "fingerprint", "identity")
CORES = "CPU cores"  # as machines say how many they have
OF_TRAINING = ("epochs", "steps", "minutes")  # that a derived row has not, scored from finished runs


def columns(rows: Sequence[Mapping[str, str]], factors: Sequence[str]) -> list[str]:
    """The columns of a table: which run, the study's factors and others that rows have, then the facts."""
    own = [factor for factor in factors if factor not in FIXED]
    others = other_factors((key for row in rows for key in row), factors)
    return [*WHICH, *own, *others, *(name for name in FIXED if name not in WHICH)]


def other_factors(names: Iterable[str], factors: Sequence[str]) -> list[str]:
    """Column names that are factors from the command line: neither facts nor factors of the study."""
    return sorted({*names} - {*FIXED, *factors})


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
