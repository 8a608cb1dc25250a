"""Answers as a table, JSON, CSV, or file names alone."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from threeshnet.files import write_text
from threeshnet.index.index import Index
from threeshnet.index.query import Answer, Result
from threeshnet.settings import SearchSettings

COLUMNS = ("query", "rank", "id", "file", "score", "probability", "answerable")
NOTHING = "nothing matches"


def write_answers(answers: Sequence[Answer], index: Index, settings: SearchSettings, *, several: bool) -> None:
    """Write answers in the form of the settings, to its file or standard output; a line of JSON each of `several`."""
    if settings.format == "table" and settings.out is None:
        console = Console()
        for answer in answers:
            console.print(table_of(answer))
        return
    texts: dict[str, Callable[[], str]] = {
        "table": lambda: _printed(answers),
        "json": lambda: as_json(answers, several=several),
        "csv": lambda: as_csv(answers),
        "paths": lambda: "".join(paths_of(answers, index, "\0" if settings.zero else "\n")),
    }
    text = texts[settings.format]()
    if settings.out is None:
        sys.stdout.write(text)
    else:
        write_text(Path(settings.out), text, errors="surrogateescape")


def table_of(answer: Answer) -> Table:
    """The results with their scores; dimmed where nothing matches."""
    dimmed = "dim" if answer.matches is False else ""
    sure = "" if answer.answerable is None else f"  (an answer is there with probability {answer.answerable:.2f})"
    title = f"{answer.query}{sure}" if not dimmed else f"{answer.query}: {NOTHING}{sure}; the nearest are"
    table = Table(title=Text(title), title_justify="left")
    for name in ("", "score", "probability", "photo"):
        table.add_column(name, justify="left" if name == "photo" else "right")
    for rank, result in enumerate(answer.results, start=1):
        sure = "" if result.probability is None else f"{result.probability:.2f}"
        also = f"  (+{len(result.duplicates)} like it)" if result.duplicates else ""
        table.add_row(str(rank), f"{result.score:.3f}", sure, Text(f"{_shown(result)}{also}"), style=dimmed)
    return table


def as_json(answers: Sequence[Answer], *, several: bool) -> str:
    """One object, or a line for each of `several` answers."""
    lines = [json.dumps(answer.to_json(), ensure_ascii=False, indent=None if several else 1) for answer in answers]
    return "".join(f"{line}\n" for line in lines)


def as_csv(answers: Sequence[Answer]) -> str:
    """A row a result."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for answer in answers:
        for rank, result in enumerate(answer.results, start=1):
            numbers = (f"{result.score:.6f}", result.probability, answer.answerable)
            writer.writerow((answer.query, rank, result.id, result.file or "", *numbers))
    return text.getvalue()


def paths_of(answers: Sequence[Answer], index: Index, end: str) -> Iterator[str]:
    """The photos' paths, or the ids where the index knows no photos."""
    for answer in answers:
        for result in answer.results:
            yield f"{index.photo_path(result.id) if result.file and index.manifest.raw else result.id}{end}"


def _shown(result: Result) -> str:
    return result.caption if result.caption is not None else result.file or result.id


def _printed(answers: Sequence[Answer]) -> str:
    text = io.StringIO()
    console = Console(file=text, width=120)
    for answer in answers:
        console.print(table_of(answer))
    return text.getvalue()
