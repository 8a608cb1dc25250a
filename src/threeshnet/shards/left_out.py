"""The report of what has no row in a shard folder, beside its manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

LEFT_OUT_LIST = "left_out.txt"


def printable(text: str) -> str:
    """One line that can be written as UTF-8: names of files may hold line breaks and bytes that are no text.

    >>> printable("two\\nlines and \\udcff")
    'two\\\\nlines and \\\\udcff'
    """
    escaped = text.replace("\r", "\\r").replace("\n", "\\n")
    return escaped.encode("utf-8", "backslashreplace").decode("utf-8")


def write_left_out(folder: Path, reasons: Sequence[str], *, aside: Path) -> None:
    """Write `folder/left_out.txt`, a line each, first in the folder `aside`; remove it when nothing is left out."""
    if not reasons:
        (folder / LEFT_OUT_LIST).unlink(missing_ok=True)
        return
    partial = aside / LEFT_OUT_LIST
    partial.write_text("".join(f"{reason}\n" for reason in reasons), encoding="utf-8")
    partial.replace(folder / LEFT_OUT_LIST)
