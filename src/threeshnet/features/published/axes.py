"""Which axis of an array counts its regions: by the other arrays beside it, or as the user says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from threeshnet.errors import ConfigError, DataError, one_of

Axis = Literal["rows", "columns"]
AXES = ("rows", "columns")
SAY = "say regions=rows for [N, Dr], or regions=columns for [Dr, N]"


def check_axis(value: str | None) -> None:
    """Raises ConfigError for a setting `regions` that is neither of AXES nor None."""
    if value is not None and value not in AXES:
        raise ConfigError(one_of("regions", value, AXES))


def in_columns(shape: tuple[int, ...], *, exact: Iterable[int], count: int | None, named: str | None) -> bool:
    """Whether an array of `shape` [rows, columns] holds a region a column.

    exact: lengths of arrays with one row a region, such as boxes. count: how many regions are said to count; there may
    be more, as padding. named: what the user said, which decides. Raises DataError where that is open.

    >>> in_columns((2048, 36), exact=[36], count=None, named=None)
    True
    """
    if named is not None:
        return named == "columns"
    rows, columns = shape
    lengths = set(exact)
    if not lengths and count is None:
        if rows > columns:
            raise DataError(
                f"shape ({rows}, {columns}), more regions than numbers of each, and nothing counts them; {SAY}"
            )
        return False
    known = lengths or {count}
    fits = [all(each == size for each in known) for size in (rows, columns)]
    if fits == [True, True]:
        raise DataError(f"shape ({rows}, {columns}): both axes have {rows}, the number of regions; {SAY}")
    if not any(fits) and not lengths:
        raise DataError(f"shape ({rows}, {columns}), and {count} regions are counted, which is neither; {SAY}")
    return fits[1]
