"""Which rows may stand in one table: complete ones, and comparable where they are averaged or compared."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from threeshnet.errors import DataError, Problems, shortened
from threeshnet.metrics.protocols import folds_of
from threeshnet.reports.results import Results
from threeshnet.studies.columns import NUMBERS, OF_A_TABLE, device

ROUNDING = 0.02  # six recalls, each rounded in its row
DEVICE, GALLERY = "device", "gallery"  # columns that are derived from `machine` and `protocol`
# Facts that must agree within a setting, between a level and its baseline, and between the seeds of a level.
OF_A_SETTING = (GALLERY,)
OF_A_PAIR = ("data", "fingerprint", "split", "images", "captions", "selection", "epochs", DEVICE)
OF_A_LEVEL = (*OF_A_PAIR, "protocol", "batch", "precision")


def check(results: Results) -> Results:
    """The same results.  Raises DataError with every incomplete row, wrong sum, and mix of facts."""
    problems = Problems("results.csv")
    for row in results.rows.to_dict("records"):
        if missing := [name for name in OF_A_TABLE if not row.get(name)]:
            problems.add(f"{row.get('job') or 'a row'}: does not say {', '.join(missing)}")
            continue
        if not re.fullmatch(r"-?\d{1,18}", row["seed"]):
            problems.add(f"{row['job']}: seed={shortened(row['seed'], 40)!r} is no whole number")
            continue
        if strange := [name for name in (*NUMBERS, "dev_rsum") if row.get(name) and not _is_number(row[name])]:
            problems.extend(f"{row['job']}: {name}={shortened(row[name], 40)!r} is no number" for name in strange)
            continue
        total = sum(float(row[name]) for name in NUMBERS if name != "rsum")
        if abs(total - float(row["rsum"])) > ROUNDING:
            problems.add(f"{row['job']}: rsum={row['rsum']}, and its six recalls sum up to {total:.2f}")
    problems.raise_as(DataError, "Collect these runs again: make collect STUDY=<name>.")
    problems.extend(_mixed(results))
    problems.raise_as(
        DataError,
        "Keep them apart by another setting: make collect STUDY=<name> OUT=<folder of these runs alone> "
        "ARGS='setting_name=<name>'.",
    )
    return results


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _mixed(results: Results) -> Iterator[str]:
    """Facts that differ where rows are averaged or compared."""
    for setting in results.settings:
        where = f"{setting.experiment}/{setting.name}"
        yield from (f"{where}: {fact}" for fact in _several(setting.rows, OF_A_SETTING))
        for level in setting.levels.values():
            yield from (f"{where}, {level}: seeds of {fact}" for fact in _several(level.rows, OF_A_LEVEL))
            if level.base is not None and not level.is_base:
                both = _several(pd.concat([level.rows, level.base.rows]), OF_A_PAIR)
                yield from (f"{where}, {level} against {level.base}: {fact}" for fact in both)


def _several(rows: pd.DataFrame, names: Sequence[str]) -> Iterator[str]:
    """Facts of which there is more than one; a derived row says nothing of its training."""
    made, records = {DEVICE: device, GALLERY: _gallery}, rows.to_dict("records")
    for name in names:
        value_of = made.get(name, lambda row, name=name: row.get(name, "")[:12])
        values = sorted(filter(None, {value_of(row) for row in records}))
        if len(values) > 1:
            yield f"{name} {' and '.join(values)}"


def _gallery(row: Mapping[str, str]) -> str:
    """Recalls in folds and in the whole split are not comparable; full, ensemble and transfer rank the whole split.

    >>> _gallery({"protocol": "full, perturbed: swap_words"}), _gallery({"protocol": "five_fold_1k"})
    ('the whole split', 'folds of 1,000')
    """
    return "folds of 1,000" if folds_of(row["protocol"].partition(",")[0]) > 1 else "the whole split"
