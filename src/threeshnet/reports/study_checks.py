"""Which rows may stand in one table: whole ones, and of one question where they are averaged or compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from threeshnet.errors import DataError, Problems
from threeshnet.metrics.protocols import folds_of
from threeshnet.reports.study_report import Comparison
from threeshnet.studies.columns import NUMBERS, Row, by_level, device, groups, label, lacking

OF_THE_ITEMS = ("data", "fingerprint", "split", "images", "captions")
DEVICE = "device"  # is no column, but what `machine` is of
GALLERY = "gallery"  # is no column either, but what `protocol` ranks in
OF_A_COMPARISON = (*OF_THE_ITEMS, "selection", "epochs", DEVICE)
OF_A_LEVEL = (*OF_A_COMPARISON, "protocol", "batch", "precision")  # a factor may change these, another seed may not
ROUNDING = 0.02  # six recalls, each rounded in its row


def check_rows(rows: Sequence[Row], comparison: Comparison) -> None:
    """Raises DataError with all rows that lack a fact, have another rsum than their recalls, or do not compare."""
    problems = Problems("results.csv")
    for row in rows:
        problems.extend(f"{row.get('job') or 'a row'}: {fault}" for fault in _faults(row))
    problems.raise_as(DataError, "Collect these runs again: make collect STUDY=<name>.")
    problems.extend(_of_other_questions(rows, comparison))
    problems.raise_as(
        DataError,
        "Keep them apart by another setting: make collect STUDY=<name> OUT=<folder of these runs alone> "
        "ARGS='setting_name=<name>'.",
    )


def _faults(row: Row) -> Iterator[str]:
    if lacking(row):
        yield f"does not say {', '.join(lacking(row))}"
        return
    total = sum(float(row[name]) for name in NUMBERS if name != "rsum")
    if abs(total - float(row["rsum"])) > ROUNDING:
        yield f"rsum={row['rsum']}, and its six recalls sum up to {total:.2f}"


def _of_other_questions(rows: Sequence[Row], comparison: Comparison) -> Iterator[str]:
    """Facts that differ within a table, between the seeds of a level, or between a level and its baseline."""
    for (experiment, setting), found in groups(rows).items():
        yield from (f"{experiment}/{setting}: {fact}" for fact in _several(found, (GALLERY,)))
        levels = by_level(found, comparison.factors)
        for names, seeds in levels.items():
            place = f"{experiment}/{setting}, {label(names)}"
            yield from (f"{place}: seeds of {fact}" for fact in _several(seeds, OF_A_LEVEL))
            base = comparison.base(names)
            if base != names and base in levels:
                both = _several([*seeds, *levels[base]], OF_A_COMPARISON)
                yield from (f"{place} against {label(base)}: {fact}" for fact in both)


def _several(rows: Sequence[Row], names: Sequence[str]) -> Iterator[str]:
    """Facts of which there is more than one; a derived row says nothing of its training."""
    made = {DEVICE: device, GALLERY: _gallery}
    for name in names:
        if name in made:
            values = sorted({made[name](row) for row in rows})
        else:
            values = sorted({row[name][:12] for row in rows if row.get(name, "") != ""})
        if len(values) > 1:
            yield f"{name} {' and '.join(values)}"


def _gallery(row: Row) -> str:
    """Numbers of folds and of whole splits are of other questions; full, ensemble and transfer all rank a whole split.

    >>> _gallery({"protocol": "full, perturbed: swap_words"}), _gallery({"protocol": "five_fold_1k"})
    ('the whole split', 'folds of 1,000')
    """
    return "folds of 1,000" if folds_of(row["protocol"].partition(",")[0]) > 1 else "the whole split"
