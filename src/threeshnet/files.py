"""Files that are whole or not there: written aside and renamed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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
