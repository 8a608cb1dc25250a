"""Tables in Markdown, and the places in a README where generated ones stand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from threeshnet.errors import ConfigError, Problems
from threeshnet.files import write_text
from threeshnet.reports.tables import table as table


def marks(name: str) -> tuple[str, str]:
    """Between which a generated part stands.

    >>> marks("claims")
    ('<!-- claims -->', '<!-- /claims -->')
    """
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def filled(text: str, parts: Mapping[str, str], file: Path) -> str:
    """`text` of `file` with each part between its marks.  Raises ConfigError that names those not standing there once.

    >>> print(filled("a <!-- b -->old<!-- /b --> c", {"b": "new"}, Path("README.md")))
    a <!-- b -->
    new
    <!-- /b --> c
    """
    problems = Problems(f"{file}: marks")
    for name, content in parts.items():
        begin, end = marks(name)
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            problems.add(f"{begin} and {end} must stand there once, in this order")
            continue
        text = f"{text.partition(begin)[0]}{begin}\n{content}\n{end}{text.partition(end)[2]}"
    problems.raise_as(ConfigError)
    return text


def fill(file: Path, parts: Mapping[str, str]) -> None:
    """Puts each part between its marks of `file`, which is replaced when it is whole; nothing where there is no file.

    Raises ConfigError as `filled`.
    """
    if not file.is_file():
        return
    write_text(file, filled(file.read_text(encoding="utf-8"), parts, file))
