"""What may be wrong with single rows of a shard, in a file or before they are written, and how rows are named."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import h5py
import numpy as np

from threeshnet.errors import Problems
from threeshnet.records import VOID, ImageArrays
from threeshnet.shards.schema import (
    FEATURE_TYPES,
    FEATURES,
    MAX_REGIONS,
    REGIONS,
    TABLE,
    Layout,
    arrays_by_key,
    layout_of_arrays,
    row_types,
)

CHUNK_BYTES = 1 << 24  # looked at together, to bound memory
LONGEST_CAPTION = 2000  # characters; BERT reads 512 wordpieces, and the longest caption of COCO has 250 characters
CONTROL = "has control characters (or line breaks)"
LONG = f"has more than {LONGEST_CAPTION} characters"
HALF_STEP = 2**-10  # of float16 below 1: sums of probabilities may pass 1 by as much
Advance = Callable[[int], None]  # called with the number of bytes that were checked


@dataclass
class ShardLook:
    """What one shard holds, and the findings about it: faults make it unfit, remarks do not."""

    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    captions: int = 0
    regions: int = 0
    maps: list[bytes] = field(default_factory=list)  # different ones of `seg/map`, two at most
    sound_checksum: bool = False


class RowNames:
    """Names rows of a shard's datasets by the image that they belong to, as far as the shard itself can be trusted."""

    def __init__(self, ids: Sequence[str], owners: np.ndarray, offsets: np.ndarray) -> None:
        self.ids, self.owners, self.offsets = ids, owners, offsets

    def say(self, key: str, rows: np.ndarray) -> str:
        """All `rows` (ascending) of dataset `key`, neighbours as ranges, with the image ids of their ends.

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
    number_of_classes = classes or 0

    def no_class(cells: np.ndarray) -> np.ndarray:
        return (cells >= number_of_classes) & (cells != VOID)

    strange = f"has class {{found}}; there are 0 to {number_of_classes - 1}, and {VOID} for void"
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
    shard: h5py.File, classes: int | None, names: RowNames, look: ShardLook, advance: Advance, skipped: Collection[str]
) -> None:
    """Read every number of an open shard once, but for datasets `skipped`, and note the rows that fail a check."""
    check_of = value_checks(classes)
    for array in TABLE:
        key, checks = array.key, [check_of[name] for name in array.checks]
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
            look.faults.append(f"{key} cannot be read ({error})")
        for check, parts in failed.items():
            line = f"{key} {said[check]}: {names.say(key, np.concatenate(parts))}"
            (look.faults if check.is_fault else look.remarks).append(line)


def array_faults(arrays: ImageArrays, layout: Layout, names: Sequence[str]) -> Problems:
    """What keeps the arrays of these images (`names` are their ids) from being written under this layout."""
    problems = Problems("arrays that do not fit the shard")
    actual = layout_of_arrays(arrays, layout.grid_size)
    problems.extend(layout.differences(actual))
    strange = {name: dtype for name, dtype in actual.dtypes.items() if dtype not in FEATURE_TYPES}
    problems.extend(f"{name} of type {dtype}; expected {FEATURES}" for name, dtype in strange.items())
    for faults in (_count_faults, _shape_faults, _value_faults):  # each relies on those before it
        if not problems:
            problems.extend(faults(arrays, layout, names))
    return problems


def _count_faults(arrays: ImageArrays, layout: Layout, names: Sequence[str]) -> Iterator[str]:
    for name, values in arrays._asdict().items():
        if values is not None and len(values) != len(names):
            yield f"{name}: {len(values)} entries for {len(names)} images"
    for together in (("boxes", "scores"), ("seg_semantic", "seg_map", "seg_categories")):
        if len({getattr(arrays, name) is None for name in together}) > 1:
            yield f"{', '.join(together)} come together: one of them is missing"
    if arrays.regions is None and (arrays.boxes or arrays.labels):
        yield "boxes or labels without regions"
    for name, regions in zip(names, arrays.regions or (), strict=False):
        if not 1 <= len(regions) <= MAX_REGIONS:
            yield f"image {name!r}: {len(regions)} regions; an image needs 1 to {MAX_REGIONS}"
    if (layout.classes or 0) > VOID:
        yield f"{layout.classes} classes; the map counts in 8 bits and keeps {VOID} for void, so {VOID} is the most"


def _shape_faults(arrays: ImageArrays, layout: Layout, names: Sequence[str]) -> Iterator[str]:
    for array, values in arrays_by_key(arrays):
        row, dtype = row_types(layout)[array.key]
        for number, value in enumerate(values):
            shape = (len((arrays.regions or ())[number]), *row) if array.rows == REGIONS else row
            if value.shape != shape or (array.dtype == FEATURES and value.dtype != dtype):
                actual, expected = f"{value.shape}, {value.dtype}", f"{shape}, {dtype}"
                yield f"image {names[number]!r}: {array.key} of shape {actual}; expected {expected}"


def _value_faults(arrays: ImageArrays, layout: Layout, names: Sequence[str]) -> Iterator[str]:
    check_of = value_checks(layout.classes)
    for array, values in arrays_by_key(arrays):
        in_regions = array.rows == REGIONS
        owners = np.repeat(np.arange(len(names)), list(map(len, values)) if in_regions else 1)
        rows = np.concatenate(values) if in_regions else np.asarray(values)
        for check in (check_of[name] for name in array.checks if check_of[name].is_fault):
            failed = np.flatnonzero(check.fails(rows))
            for owner, first in zip(*np.unique(owners[failed], return_index=True), strict=True):
                said = check.says.format(found=check.example(rows[failed[first]]))
                yield f"image {names[owner]!r}: {array.key} {said}"


def look_at_texts(key: str, texts: Iterable[bytes], names: RowNames, look: ShardLook) -> None:
    """Texts that are no UTF-8 are a fault; control characters and great length are worth a remark."""
    decoded = [text_of(text) for text in texts]
    for failed, says, said in (
        ([text is None for text in decoded], "has text that is not UTF-8", look.faults),
        ([bool(text) and _has_control(text) for text in decoded], CONTROL, look.remarks),
        ([bool(text) and len(text) > LONGEST_CAPTION for text in decoded], LONG, look.remarks),
    ):
        if any(failed):
            said.append(f"{key} {says}: {names.say(key, np.flatnonzero(failed))}")


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
