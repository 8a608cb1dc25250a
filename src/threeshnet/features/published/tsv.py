"""Bottom-up attention as tab-separated lines with base64 arrays (Anderson et al., CVPR 2018; LXMERT's ten columns).

One pass finds where each line's arrays lie; an image is then read from its place. Lines are up to a megabyte long.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from threeshnet.annotations.common import without_repr
from threeshnet.annotations.photo_files import files_below
from threeshnet.errors import DataError, Problems, some
from threeshnet.features.published.layout import Entry, PublishedLayout, Request, RowReader, Source

BOTTOM_UP = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
LXMERT = (
    *("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
    *("num_boxes", "boxes", "features"),
)
COLUMNS = {len(columns): columns for columns in (BOTTOM_UP, LXMERT)}
SAME = {"img_id": "image_id", "img_h": "image_h", "img_w": "image_w", "objects_conf": "scores"}
NUMBER, DOUBLE = np.dtype("<f4"), np.dtype("<f8")  # of the arrays inside; some writers forgot to convert them
LOW_BITS = 0x1FFFFFFF  # of a float64 that was a float32: zero
SHOWN_BYTES = (b"b'", b'b"')
FIRST_BYTES = 1 << 21  # enough for one line


class Place(NamedTuple):
    """Where one image's arrays are: (first byte, length) of each column in base64."""

    file: int
    line: int
    regions: int
    columns: dict[str, tuple[int, int]]
    types: dict[str, np.dtype]  # of the columns that are not float32


class TsvLine(NamedTuple):
    """One line before it is decoded."""

    entry: Entry
    width: int  # of a region
    halves_equal: bool  # of the text of the features


class TsvRows(RowReader):
    """Decodes the arrays of one line."""

    def __init__(self, files: tuple[Path, ...]) -> None:
        self.files = files

    def read(self, key: Place) -> dict[str, np.ndarray]:
        arrays = {}
        with self.files[key.file].open("rb") as stream:
            for name, (start, length) in key.columns.items():
                stream.seek(start)
                kind = key.types.get(name, NUMBER)
                try:
                    decoded = bytearray(base64.b64decode(stream.read(length), validate=True))
                    arrays[name] = np.frombuffer(decoded, kind).astype(np.float32, copy=False)
                except (binascii.Error, ValueError) as error:
                    raise DataError(f"{name}: not whole base64 of {kind} ({error})") from error
        shapes = {"features": (key.regions, -1), "boxes": (key.regions, 4), "scores": (key.regions,)}
        try:
            shaped = {name: values.reshape(shapes[name]) for name, values in arrays.items()}
        except ValueError as error:
            raise DataError(f"{error} for num_boxes={key.regions}") from error
        return {"regions" if name == "features" else name: values for name, values in shaped.items()}

    def where(self, key: Place) -> str:
        return f"{self.files[key.file].name} line {key.line}"


class TsvLayout(PublishedLayout):
    """One or several `.tsv` files, with or without a line of column names."""

    name = "tsv"
    holds = f"*.tsv with columns {', '.join(BOTTOM_UP)} (or LXMERT's ten), arrays in base64"

    def missed(self, raw: Path) -> str:
        files = files_below(raw, (".tsv",))
        if not files:
            return "no .tsv file"
        with files[0].open("rb") as stream:
            columns = len(stream.readline(FIRST_BYTES).rstrip(b"\r\n").split(b"\t"))
        return "" if columns in COLUMNS else f"{files[0].name} has {columns} columns; {_known()}"

    def open(self, raw: Path, request: Request, problems: Problems) -> Source:
        files = tuple(files_below(raw, (".tsv",)))
        lines: list[TsvLine] = []
        faults: list[str] = []
        for number, file in enumerate(files):
            lines += _lines(number, file, faults)
        usual = Counter(line.width for line in lines).most_common(1)[0][0] if lines else 0
        entries: dict[str, Entry] = {}
        twice, widths = [], {}
        for line in lines:
            where = f"{line.entry.file} line {line.entry.key.line}"
            if line.halves_equal and line.width == 2 * usual:  # three of the 40,775 published lines are so
                faults.append(f"{where}: its features stand there twice")
            elif line.entry.id in entries:
                twice.append(line.entry.id)
            else:
                entries[line.entry.id] = line.entry
                widths.setdefault(line.width, where)
        if len(widths) > 1:
            shown = ", ".join(f"{width} ({where})" for width, where in widths.items())
            problems.add(f"{raw}: regions of different widths: {shown}")
        if request.on_error == "stop" or not entries:
            problems.extend(faults)
        # Published parts overlap in a few images; they hold the same arrays.
        remarks = [f"{len(twice)} image ids occur again; the first line of each was taken: {some(twice)}"]
        return Source(
            layout=self.name,
            raw=raw,
            entries=tuple(entries.values()),
            fields=("region",),
            reader=TsvRows(files),
            files=files,
            dtypes={"region": frozenset([str(_type_of(entry).newbyteorder("=")) for entry in entries.values()])},
            boxes="pixels",
            scores=all("scores" in entry.key.columns for entry in entries.values()),
            remarks=tuple(remarks) if twice else (),
            left_out=tuple(faults),
        )


def _type_of(entry: Entry) -> np.dtype:
    return entry.key.types.get("features", NUMBER)


def _known() -> str:
    return " or ".join(f"{count} ({', '.join(columns[:4])}, …)" for count, columns in COLUMNS.items())


def _lines(number: int, file: Path, faults: list[str]) -> Iterator[TsvLine]:
    """The lines of a file, of which nothing is decoded yet; what is wrong with one is added to `faults`."""
    names: tuple[str, ...] = ()
    position, kind = 0, None
    with file.open("rb") as stream:
        for line, text in enumerate(stream, start=1):
            start, position = position, position + len(text)
            cells = text.rstrip(b"\r\n").split(b"\t")
            if line == 1 and cells[0] in (b"image_id", b"img_id"):
                names = tuple(cell.decode() for cell in cells)
                continue
            columns = names or COLUMNS.get(len(cells), ())
            if len(cells) != len(columns):
                torn = "" if text.endswith(b"\n") else "; the file ends in it, so it may be truncated"
                faults.append(f"{file} line {line}: {len(cells)} columns; expected {len(columns) or _known()}{torn}")
                continue
            try:
                held = dict(zip(columns, cells, strict=True))
                kind = kind or _kind(_unshown(held["features"]))
                yield _entry(Place(number, line, 0, {}, {}), file, start, held, kind)
            except ValueError as error:
                faults.append(f"{file} line {line}: {error}")


def _unshown(cell: bytes) -> bytes:
    """A cell without what str(bytes) of Python 3 puts around it: b'…'."""
    return cell[2:-1] if cell[:2] in SHOWN_BYTES and cell[1:2] == cell[-1:] else cell


def _kind(features: bytes) -> np.dtype:
    """The type of the numbers in base64, by what they are as each: float64 seen as float32 has numbers beyond sense.

    A float64 that was a float32 has zeros at its end, which no float32 in its place has.
    """
    try:
        content = base64.b64decode(features, validate=True)
        words = np.frombuffer(content, "<u4").reshape(-1, 2)
    except (binascii.Error, ValueError):
        return NUMBER
    singles, doubles = np.frombuffer(content, NUMBER), np.frombuffer(content, DOUBLE)
    converted = bool(doubles.any()) and not (words[:, 0] & LOW_BITS).any()
    return DOUBLE if _sensible(doubles) and (converted or not _sensible(singles)) else NUMBER


def _sensible(values: np.ndarray) -> bool:
    """Whether numbers are finite, and none is so large or small that no network gives it."""
    sizes = np.abs(values[values != 0].astype(np.float64))
    return bool(np.isfinite(sizes).all() and (sizes < 1e30).all() and (sizes > 1e-30).all())


def _entry(place: Place, file: Path, start: int, cells: dict[str, bytes], kind: np.dtype) -> TsvLine:
    spans = {}
    for name, cell in cells.items():
        if name in ("boxes", "features", "objects_conf"):
            cells[name] = _unshown(cell)
            spans[SAME.get(name, name)] = (start + (2 if len(cells[name]) < len(cell) else 0), len(cells[name]))
        start += len(cell) + 1
    plain = {SAME.get(name, name): cell for name, cell in cells.items() if len(cell) < 100}
    regions, width, height = (_whole(plain, name) for name in ("num_boxes", "image_w", "image_h"))
    features = cells["features"]
    numbers = _bytes_in(features) / kind.itemsize
    types = {"features": kind} if kind != NUMBER else {}
    for name, wide in (("boxes", 4), ("objects_conf", 1)):
        if name in cells and regions > 0 and _bytes_in(cells[name]) == regions * wide * DOUBLE.itemsize:
            types[SAME.get(name, name)] = DOUBLE
    halves_equal = features[: len(features) // 2] == features[len(features) // 2 :]
    if regions < 1 or numbers % regions:
        why = "they stand there twice" if halves_equal else "is the line truncated?"
        raise ValueError(f"features of {numbers:g} numbers for num_boxes={regions}; {why}")
    key = place._replace(regions=regions, columns=spans, types=types)
    name = without_repr(plain["image_id"].decode().strip())
    entry = Entry(name, key, file, size=(width, height), regions=regions)
    return TsvLine(entry, int(numbers // regions), halves_equal)


def _bytes_in(cell: bytes) -> int:
    """How many bytes a text in base64 stands for."""
    return len(cell) * 3 // 4 - cell[-2:].count(b"=")


def _whole(plain: dict[str, bytes], name: str) -> int:
    """A column that must be a whole number; some writers gave `640.0`."""
    try:
        value = float(plain[name])
    except (KeyError, ValueError) as error:
        raise ValueError(f"no number in {name} ({error})") from error
    if not value.is_integer():
        raise ValueError(f"{name}={value}; expected a whole number")
    return int(value)
