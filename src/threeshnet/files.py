"""Files that are whole or not there: written aside and renamed."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial"  # after the name of a file that is being written


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A file to write instead of `file`, which it becomes when the block ends; an exception leaves both as they are."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + PARTIAL)
    yield partial
    partial.replace(file)


def write_text(file: Path, text: str, *, errors: str = "strict") -> None:
    """A text in UTF-8; `errors` as in `str.encode`."""
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8", errors=errors)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """JSON that a person can read."""
    write_text(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_rows(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A CSV file; what a row lacks is empty there. Raises ValueError for what has no column."""
    with replacing(file) as partial, partial.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
