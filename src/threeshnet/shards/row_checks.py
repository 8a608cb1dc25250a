"""What may be wrong with single rows of a shard, looked for chunk by chunk, and how those rows are named."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import h5py
import numpy as np

from threeshnet.records import VOID
from threeshnet.shards.schema import TABLE

CHUNK_BYTES = 1 << 24  # looked at together, to bound memory
LONGEST_CAPTION = 2000  # characters; BERT reads 512 wordpieces, and the longest caption of COCO has 250 characters
HALF_STEP = 2**-10  # of float16 below 1: sums of probabilities may pass 1 by as much
Advance = Callable[[int], None]  # called with the number of bytes that were checked
Rows = np.ndarray  # row numbers, ascending


@dataclass
class Notes:
    """Findings about one shard: faults make it unfit, remarks do not."""

    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class RowNames:
    """Names rows of a shard's datasets by the image that they belong to, as far as the shard itself can be trusted."""

    def __init__(self, ids: Sequence[str], owners: np.ndarray, offsets: np.ndarray) -> None:
        self.ids, self.owners, self.offsets = ids, owners, offsets

    def say(self, key: str, rows: Rows) -> str:
        """All `rows` of dataset `key`, neighbours as ranges, with the image ids of their ends.

        >>> RowNames(["a", "b", "c"], np.array([0, 0]), np.array([])).say("grid/features", np.array([0, 1]))
        "rows 0-1 (images 'a' to 'b')"
        """
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        parts = [self._range(key, int(part[0]), int(part[-1])) for part in np.split(rows, breaks)]
        return f"row{'s' if len(rows) > 1 else ''} {', '.join(parts)}"

    def _range(self, key: str, first: int, last: int) -> str:
        numbers = str(first) if first == last else f"{first}-{last}"
        ends = [self._image(key, first), self._image(key, last)]
        if None in ends:
            return numbers
        return f"{numbers} (image {ends[0]})" if ends[0] == ends[1] else f"{numbers} (images {ends[0]} to {ends[1]})"

    def _image(self, key: str, row: int) -> str | None:
        number = row
        if key.startswith("caption/"):
            number = int(self.owners[row]) if row < len(self.owners) else -1
        elif key.startswith("region/") and key != "region/offsets":
            number = int(np.searchsorted(self.offsets, row, side="right")) - 1
        return repr(self.ids[number]) if 0 <= number < len(self.ids) else None


class RowCheck(NamedTuple):
    """One thing that may be wrong with a row of an array."""

    fails: Callable[[np.ndarray], np.ndarray]  # rows to [rows] bool
    says: str  # when some rows fail; {found} is the number that `example` takes from the first of them
    is_fault: bool = True
    example: Callable[[np.ndarray], int] = lambda _: 0


def value_checks(classes: int | None) -> Mapping[str, RowCheck]:
    """The checks that the table of arrays names; `classes` is C."""
    known = classes or 0

    def no_class(cells: np.ndarray) -> np.ndarray:
        return (cells >= known) & (cells != VOID)

    strange = f"has class {{found}}; there are 0 to {known - 1}, and {VOID} for void"
    return {
        "size": RowCheck(lambda rows: _any(rows < 0), "has sizes below 0"),
        "finite": RowCheck(not_finite, "has numbers that are not finite"),
        "not zero": RowCheck(_all_zero, "has rows of nothing but zeros", is_fault=False),
        "box": RowCheck(_no_box, "has boxes that are not x1 <= x2, y1 <= y2 in [0, 1] of the photo"),
        "label": RowCheck(lambda rows: rows < 0, "has labels below 0"),
        # Published arrays need not be probabilities, and models take them as they are.
        "probability": RowCheck(_no_probability, "has numbers outside of [0, 1]", is_fault=False),
        "class": RowCheck(lambda rows: _any(no_class(rows)), strange, example=lambda row: row[no_class(row)].max()),
        "flag": RowCheck(lambda rows: _any(rows > 1), "has numbers other than 0 and 1"),
    }


def look_at_values(
    shard: h5py.File,
    classes: int | None,
    names: RowNames,
    notes: Notes,
    advance: Advance,
    skipped: Collection[str] = (),
) -> None:
    """Read every number of an open shard once, but for datasets `skipped`, and note the rows that fail a check."""
    known = value_checks(classes)
    for array in TABLE:
        key, checks = array.key, [known[name] for name in array.checks]
        if not checks or key not in shard or key in skipped:
            continue
        failed: dict[RowCheck, list[np.ndarray]] = {}
        said: dict[RowCheck, str] = {}
        try:
            for start, part in chunks(shard[key], advance):
                for check in checks:
                    rows = np.flatnonzero(check.fails(part))
                    if len(rows):
                        failed.setdefault(check, []).append(rows + start)
                        said.setdefault(check, check.says.format(found=check.example(part[rows[0]])))
        except (OSError, RuntimeError, ValueError) as error:
            notes.faults.append(f"{key} cannot be read ({error})")
        for check, parts in failed.items():
            line = f"{key} {said[check]}: {names.say(key, np.concatenate(parts))}"
            (notes.faults if check.is_fault else notes.remarks).append(line)


def look_at_texts(key: str, texts: Iterable[bytes], names: RowNames, notes: Notes) -> None:
    """Texts that are no UTF-8 are a fault; control characters and great length are worth a remark."""
    decoded = [text_of(text) for text in texts]
    broken = [row for row, text in enumerate(decoded) if text is None]
    if broken:
        notes.faults.append(f"{key} has text that is not UTF-8: {names.say(key, np.array(broken))}")
    control = [row for row, text in enumerate(decoded) if text and _has_control(text)]
    if control:
        notes.remarks.append(f"{key} has control characters (or line breaks): {names.say(key, np.array(control))}")
    long = [row for row, text in enumerate(decoded) if text and len(text) > LONGEST_CAPTION]
    if long:
        notes.remarks.append(f"{key} has more than {LONGEST_CAPTION} characters: {names.say(key, np.array(long))}")


def chunks(dataset: Any, advance: Advance) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of a dataset in parts of bounded size, each with the number of its first row."""
    width = dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))
    step = max(1, CHUNK_BYTES // max(1, width))
    for start in range(0, len(dataset), step):
        part = dataset[start : start + step]
        yield start, part
        advance(part.nbytes)


def text_of(stored: bytes) -> str | None:
    """A stored text, None when it is not UTF-8.

    >>> text_of("é".encode()), text_of(b"\\xe9")
    ('é', None)
    """
    try:
        return stored.decode("utf-8")
    except UnicodeDecodeError:
        return None


def not_finite(rows: np.ndarray) -> np.ndarray:
    """Rows with NaN or infinite values. NaN and infinity alike have every bit of the exponent set, and comparing
    integers is several times as fast as NumPy's `isfinite` of float16.
    """
    if rows.dtype != np.float16:
        return _any(~np.isfinite(rows))
    bits = np.bitwise_and(rows.view(np.uint16), 0x7C00)
    return _each_row(bits).max(axis=1, initial=0) == 0x7C00


def _all_zero(rows: np.ndarray) -> np.ndarray:
    """-0.0 counts as a number here, which makes no difference to what is looked for: a source that gave nothing."""
    return ~_any(rows.view(np.uint16) if rows.dtype == np.float16 else rows)


def _no_probability(rows: np.ndarray) -> np.ndarray:
    flat = _each_row(rows)
    return (flat.min(axis=1) < 0) | (flat.max(axis=1) > 1 + HALF_STEP)  # NaN is said already


def _no_box(boxes: np.ndarray) -> np.ndarray:
    outside = ~((boxes >= 0) & (boxes <= 1))  # NaN is
    return _any(outside) | _any(boxes[:, :2] > boxes[:, 2:])


def _any(failed: np.ndarray) -> np.ndarray:
    return np.asarray(_each_row(failed).any(axis=1))


def _each_row(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


def _has_control(text: str) -> bool:
    return not text.isprintable() and any(unicodedata.category(letter) == "Cc" for letter in text)
