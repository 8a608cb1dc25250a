"""Files of captions: tables (CSV, TSV, TXT; with or without a header) and JSON lines."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from threeshnet.annotations.common import tidy
from threeshnet.annotations.photo_files import PHOTO_SUFFIXES
from threeshnet.errors import DataError, Problems, one_of, shortened

FILE_KEYS = ("file", "image", "filename", "file_name", "image_name")
CAPTION_KEYS = ("caption", "captions", "text", "comment")
ENDINGS = (".txt", ".tsv", ".csv", ".jsonl")
SEPARATORS = (",", "\t", ";", "|")
COUNTER = re.compile(r"#\d+$")  # Flickr's `photo.jpg#0`
# a list of texts, as JSON or Python writes it
LIST = re.compile(r"""\s*[\[(][\[(\s]*[bru]?["'].*[\])]\s*""", re.DOTALL)
SINGLE_QUOTES = re.compile(r"'(?:[^']|'')*\w(?:'')+\w(?:[^']|'')*'")  # a cell of a writer with another quote
BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # Excel's "Unicode text"
ESCAPES = "a backslash stands for an escape; write the table without an escape character, quotes doubled"
FORMS = (
    "Nothing was read. Forms: photo<TAB>caption; a table with a header such as file,caption (a cell with separators, "
    'quotes or line ends stands in quotes, and its own quotes are doubled: ""); JSON lines with these keys.'
)


class Line(NamedTuple):
    """One caption of a caption file."""

    number: int  # line of the file, from 1
    file: str  # the photo, as the file names it
    caption: str  # tidied; may be empty
    split: str | None


class Row(NamedTuple):
    """The cells of one row of a table."""

    first: int  # line on which it starts, from 1
    last: int
    cells: list[str]

    @property
    def where(self) -> str:
        return f"line {self.first}" if self.first == self.last else f"lines {self.first}-{self.last}"


def read_captions(path: Path) -> list[Line]:
    """The lines of a .txt, .tsv, .csv or .jsonl file. Raises `DataError` once for every line of the wrong form."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise DataError(f"{path}: {one_of('ending', path.suffix, ENDINGS)}")
    text = _text(path)
    problems = Problems(str(path))
    if ending == ".jsonl":
        lines = list(_json_lines(text, problems))
    else:
        separator = _separator(text, must=ending == ".csv")
        lines = _tabbed(text, problems) if separator is None else list(_table(text, separator, problems))
    problems.raise_as(DataError, FORMS)
    return lines


def _text(path: Path) -> str:
    """The text with line ends as \\n; a lone carriage return and other separators of Unicode are blanks in a cell."""
    content = path.read_bytes()
    encoding = BYTE_ORDER_MARKS.get(content[:2], "utf-8-sig")
    try:
        text = content.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    if "\n" not in text.strip("\r\n") and "\r" in text.strip("\r\n"):
        raise DataError(f"{path}: its lines end with a carriage return alone; save it with line feeds (LF or CRLF)")
    return text.replace("\r", " ")


def _separator(text: str, *, must: bool) -> str | None:
    """What separates the columns of a table with a header; None for one without. Excel may say it: `sep=;`."""
    if said := re.match(r"sep=(.)\n", text):
        return said.group(1)
    known: dict[str, int] = {}
    for separator in SEPARATORS:
        rows = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)
        header = [cell.strip().lower() for cell in next((row for row in rows if row), [])]
        if not any("\t" in cell or COUNTER.sub("", cell).endswith(tuple(PHOTO_SUFFIXES)) for cell in header):
            known[separator] = sum(any(key in header for key in keys) for keys in (FILE_KEYS, CAPTION_KEYS))
    best = max(known, key=lambda separator: known[separator], default=",")
    return best if known.get(best) else "," if must else None


def _rows(text: str, separator: str, problems: Problems) -> Iterator[Row]:
    """Rows of a table by the strict rules of RFC 4180; blanks after a separator are passed over.

    After a fault reading goes on with the next line, so that each faulty line is named.
    """
    lines = text.split("\n")
    lines = [f"{line}\n" for line in lines[:-1]] + (lines[-1:] if lines[-1] else [])
    done = 0  # lines
    while done < len(lines) and len(problems.found) <= problems.shown:
        reader = csv.reader(islice(lines, done, None), delimiter=separator, skipinitialspace=True, strict=True)
        start, first = done, done + 1
        try:
            for cells in reader:
                row = Row(first, start + reader.line_num, cells)
                done, first = row.last, row.last + 1
                if fault := _foreign_dialect(cells, "".join(lines[start : row.last])):
                    problems.add(f"{row.where}: {fault}")
                elif any("\n" in cell and _holds_rows(cell, separator) for cell in cells):
                    problems.add(f"{row.where}: rows of other photos in one quoted cell; is a quote not closed?")
                elif any(cell.strip() for cell in cells):
                    yield row
        except csv.Error as error:
            last = start + max(reader.line_num, 1)
            where = Row(first, last, []).where
            ends = "text beside a quoted cell" if first == last else "a quote that is not closed where its cell ends"
            quoted = "expected after" in str(error) or "unexpected end" in str(error)
            why = ESCAPES if '\\"' in lines[first - 1] else ends
            problems.add(f"{where}: {why if quoted else error}")
            done = first


def _foreign_dialect(cells: Sequence[str], written: str) -> str | None:
    """Why a row was written by other rules of quoting, where that shows; None for one of ours.

    A backslash before a quote stands for itself in a quoted cell, where the quote is doubled.
    """
    if any('\\"' in cell and cell.replace('"', '""') not in written for cell in cells):
        return None if any(map(LIST.fullmatch, cells)) else ESCAPES
    if any(SINGLE_QUOTES.fullmatch(cell.strip()) for cell in cells):
        return "quoted with single quotes; write the table with double ones"
    return None


def _holds_rows(cell: str, separator: str) -> bool:
    """Whether a cell of several lines looks like rows that an unclosed quote has swallowed."""
    parts = [
        part.strip(' "').lower() for line in cell.split("\n")[1:] if separator in line for part in line.split(separator)
    ]
    return any(COUNTER.sub("", part).endswith(tuple(PHOTO_SUFFIXES)) or part.isdigit() for part in parts)


def _table(text: str, separator: str, problems: Problems) -> Iterator[Line]:
    """A table with a header: a column for the photo, another for the caption and, if wanted, one called `split`."""
    rows = _rows(text, separator, problems)
    if text.startswith("sep="):
        next(rows, None)
    first = next(rows, Row(1, 1, []))
    header = [cell.strip().lower() for cell in first.cells]
    if fault := _header_fault(header):
        problems.add(f"{first.where}: {fault}")
        return
    for row in rows:
        if len(row.cells) != len(header):
            more = "; put a caption that holds separators into quotes" if len(row.cells) > len(header) else ""
            more = f"; {ESCAPES}" if any(cell.endswith("\\") for cell in row.cells[:-1]) else more
            problems.add(f"{row.where}: {len(row.cells)} cells, and {len(header)} columns in the header{more}")
            continue
        yield from _entry(row.first, row.where, dict(zip(header, row.cells, strict=True)), problems)


def _header_fault(header: Sequence[str]) -> str:
    named = ", ".join(header)
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        return f"columns {named}: {', '.join(twice)} occurs more than once; give each its own name"
    for keys in (FILE_KEYS, CAPTION_KEYS):
        mine = [name for name in header if name in keys]
        if not mine:
            return f"its columns are {named}; needed are {FILE_KEYS[0]} and {CAPTION_KEYS[0]}"
        if len(mine) > 1:
            return f"columns {' and '.join(mine)} both may be the {keys[0]}; rename those that are not"
    return ""


def _tabbed(text: str, problems: Problems) -> list[Line]:
    """`photo<TAB>caption`, also with Flickr's counter, without a header.

    A table as spreadsheets write it, quotes doubled. Where that does not fit, but each line has one tab and no quote is
    doubled, quotes are part of the captions: so the files of Flickr8k and Flickr30K are.
    """
    strict = Problems(problems.subject)
    lines = []
    for row in _rows(text, "\t", strict):
        if len(row.cells) == 2:
            lines += _entry(row.first, row.where, {"file": row.cells[0], "caption": row.cells[1]}, strict)
        elif len(row.cells) == 1:
            strict.add(f"{row.where}: expected photo<TAB>caption, found {shortened(row.cells[0], 40)!r}")
        else:
            strict.add(f"{row.where}: {len(row.cells)} cells; expected photo<TAB>caption, or a header such as file")
    plain = [line for line in text.split("\n") if line.strip()]
    if strict and '""' not in text and all(line.count("\t") == 1 for line in plain):
        pairs = [(number, line.split("\t")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        return [Line(number, COUNTER.sub("", file.strip()), tidy(caption), None) for number, (file, caption) in pairs]
    problems.extend(strict.found)
    return lines


def _json_lines(text: str, problems: Problems) -> Iterator[Line]:
    """One object a line: `{"file": …, "caption": …}`, or `captions` with a list."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_without_repeats)
        except (ValueError, RecursionError) as error:
            problems.add(f"line {number}: not JSON ({error})")
            continue
        if isinstance(row, dict) and set(row) & set(FILE_KEYS) and set(row) & set(CAPTION_KEYS):
            if fault := _header_fault(list(row)):
                problems.add(f"line {number}: {fault}")
            yield from _entry(number, f"line {number}", row, problems)
        else:
            problems.add(f"line {number}: expected an object with `{FILE_KEYS[0]}` and `{CAPTION_KEYS[0]}`")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError(f"a key is repeated among {', '.join(key for key, _ in pairs)}")
    return content


def _entry(number: int, where: str, row: Mapping[str, Any], problems: Problems) -> Iterator[Line]:
    """The captions of one row."""
    file = next(row[key] for key in FILE_KEYS if key in row)
    value = next(row[key] for key in CAPTION_KEYS if key in row)
    split = str(row.get("split") or "").strip() or None
    try:
        captions = value if isinstance(value, list) else caption_list(value)
    except ValueError as error:
        problems.add(f"{where}: {error}")
        return
    name = COUNTER.sub("", str("" if file is None else file).strip())
    for caption in captions:
        if caption is not None and not isinstance(caption, str):
            problems.add(f"{where}: caption={shortened(repr(caption), 100)}: expected a text")
        yield Line(number, name, tidy(caption), split)


def caption_list(cell: Any) -> list[Any]:
    """The captions of one cell: it may hold a list, as JSON or as Python writes it. ValueError for half of a list.

    >>> caption_list('["A dog.", "A wet dog."]'), caption_list("['A cat.']"), caption_list("A dog [sic].")
    (['A dog.', 'A wet dog.'], ['A cat.'], ['A dog [sic].'])
    """
    if not isinstance(cell, str) or not LIST.fullmatch(cell):
        return [cell]
    for parse in (json.loads, _python_list):
        try:
            value = parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
            continue
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return list(value)
    if cell.lstrip().startswith("("):  # a caption may begin and end with words in parentheses
        return [cell]
    raise ValueError(f"a list that cannot be read: {shortened(cell, 60)!r}; write it as JSON, or one row a caption")


def _python_list(cell: str) -> Any:
    """A list in Python's notation; ValueError where texts stand side by side without a comma, as NumPy shows them."""
    value = ast.literal_eval(cell.strip())
    tokens = tokenize.generate_tokens(io.StringIO(cell.strip()).readline)
    strings = [token for token in tokens if token.type == tokenize.STRING]
    if isinstance(value, list | tuple) and len(strings) != len(value):
        raise ValueError("texts without a comma between them")
    return value
