"""Files of captions: `photo<TAB>caption`, CSV with a header, JSON lines."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from threeshnet.annotations.common import tidy
from threeshnet.errors import DataError, Problems, one_of

FILE_KEYS, CAPTION_KEYS = ("file", "image", "filename", "file_name"), ("caption", "captions", "text")
COUNTER = re.compile(r"#\d+$")  # Flickr's `photo.jpg#0`


class Line(NamedTuple):
    """One caption of a caption file."""

    number: int  # line of the file, from 1
    file: str  # the photo, as the file names it
    caption: str  # tidied; may be empty
    split: str | None


def read_captions(path: Path) -> list[Line]:
    """The lines of a .txt, .tsv, .csv or .jsonl file. Raises `DataError` once for every line of the wrong form."""
    readers: dict[str, Callable[[list[str], Problems], Iterable[Line]]] = {
        ".txt": tabbed,
        ".tsv": tabbed,
        ".csv": table,
        ".jsonl": json_lines,
    }
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: {one_of('ending', path.suffix, readers)}")
    try:
        text = path.read_text(encoding="utf-8-sig").splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    problems = Problems(str(path))
    lines = list(readers[path.suffix.lower()](text, problems))
    problems.raise_as(
        DataError,
        "Correct these lines. Forms: photo<TAB>caption; CSV with columns file,caption; JSON lines with these keys.",
    )
    return lines


def tabbed(text: list[str], problems: Problems) -> Iterable[Line]:
    """`photo<TAB>caption`, also with Flickr's counter; a text file with a CSV header is read as CSV."""
    if text and "\t" not in text[0] and set(text[0].strip().lower().split(",")) & set(FILE_KEYS):
        yield from table(text, problems)
        return
    for number, line in enumerate(text, start=1):
        file, tab, caption = line.rstrip("\r\n").partition("\t")
        if tab:
            yield Line(number, COUNTER.sub("", file.strip()), tidy(caption), None)
        elif file.strip():
            problems.add(f"line {number}: expected photo<TAB>caption, found {file[:40]!r}")


def table(text: list[str], problems: Problems) -> Iterable[Line]:
    """CSV with a column for the photo, one for the caption and, when it likes, one `split`."""
    rows = csv.DictReader(text)
    header = [name.strip().lower() for name in rows.fieldnames or ()]
    rows.fieldnames = header
    if not set(header) & set(FILE_KEYS) or not set(header) & set(CAPTION_KEYS):
        problems.add(f"its columns are {', '.join(header)}; needed are {FILE_KEYS[0]} and {CAPTION_KEYS[0]}")
        return
    for row in rows:
        yield from entry(rows.line_num, row)


def json_lines(text: list[str], problems: Problems) -> Iterable[Line]:
    """One object a line: `{"file": …, "caption": …}`, or `captions` with a list."""
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.add(f"line {number}: not JSON ({error})")
            continue
        if isinstance(row, dict) and set(row) & set(FILE_KEYS) and set(row) & set(CAPTION_KEYS):
            yield from entry(number, row)
        else:
            problems.add(f"line {number}: expected an object with `{FILE_KEYS[0]}` and `{CAPTION_KEYS[0]}`")


def entry(number: int, row: Mapping[str, Any]) -> Iterable[Line]:
    """The captions of one row."""
    file = next(row[key] for key in FILE_KEYS if key in row)
    said = next(row[key] for key in CAPTION_KEYS if key in row)
    split = str(row.get("split") or "").strip() or None
    for caption in said if isinstance(said, list) else [said]:
        yield Line(number, COUNTER.sub("", str(file or "").strip()), tidy(caption), split)
