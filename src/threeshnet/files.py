"""Files that are written aside and renamed, so that each is whole or absent; and the one hash of files."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial"  # after the name of a file that is being written
HASHED_BYTES = 1 << 22  # read together


def sha256(*files: Path, advance: Callable[[int], object] = lambda _: None) -> str:
    """Hex digest of the bytes of a file, or of several files one after the other.

    `advance` is called with the number of bytes after each read.
    """
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while part := stream.read(HASHED_BYTES):
                digest.update(part)
                advance(len(part))
    return digest.hexdigest()


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
