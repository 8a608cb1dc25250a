"""How an index is searched from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console

from threeshnet.errors import ConfigError, Problems
from threeshnet.forms import faults_of
from threeshnet.index.index import Index
from threeshnet.index.output import write_answers
from threeshnet.index.query import Query, as_texts
from threeshnet.settings import SearchSettings


class QueryLine(BaseModel):
    """A line of a file of queries, in JSON; what it lacks is as the command says."""

    model_config = ConfigDict(extra="forbid", strict=True)

    query: str | None = None
    image: str | None = None
    mask: str | None = None
    text_weight: float | None = None
    without: str | list[str] | None = None
    filters: str | list[str] | None = None


def search_index(settings: SearchSettings) -> None:
    """Answer one query, or those of a file, and write the answers."""
    if settings.out is not None and (not settings.out or Path(settings.out).is_dir()):
        raise ConfigError(f"out={settings.out!r} is no file of the answer; null is standard output")
    queries = [query_of(settings)] if settings.queries is None else read_queries(settings)
    index = Index.open(settings.index, checkpoint=settings.checkpoint, cluster=settings.cluster)
    options = {"fold": settings.fold, "corrected": settings.corrected, "exact": settings.exact}
    answers = index.search(queries, settings.top, **options)
    if settings.format == "html":
        from threeshnet.reports.found import write_page  # matplotlib takes a second

        page = write_page(Path(settings.out or "search.html"), answers, index, embed=settings.embed)
        Console().print(str(page), markup=False, highlight=False, soft_wrap=True)
    else:
        write_answers(answers, index, settings, several=settings.queries is not None)


def query_of(settings: SearchSettings, line: QueryLine | None = None) -> Query:
    """The query of the settings, or that of a line with the settings in place of what it lacks."""
    own = line or QueryLine()
    text = own.query if line else settings.query
    image, mask = (own.image, own.mask) if line else (settings.image, settings.mask)
    return Query(
        text=text,
        image=Path(image) if image else None,
        mask=Path(mask) if mask else None,
        text_weight=settings.text_weight if own.text_weight is None else own.text_weight,
        without=as_texts(settings.without if own.without is None else own.without),
        filters=as_texts(settings.filters if own.filters is None else own.filters),
    )


def read_queries(settings: SearchSettings) -> list[Query]:
    """One query a line: a sentence, or JSON with the keys of QueryLine.  Raises ConfigError, once for all lines."""
    if any(each is not None for each in (settings.query, settings.image, settings.mask)):
        raise ConfigError(f"queries={settings.queries} comes instead of query=, image= and mask=")
    file = str(settings.queries)
    lines = (sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")).splitlines()
    problems, queries = Problems(f"queries={file}"), []
    for number, text in enumerate(lines, start=1):
        if text.strip():
            try:
                queries.append(query_of(settings, _line(text.strip())))
            except (ValueError, ConfigError) as error:
                problems.add(f"line {number}: {error}")
    if not queries and not problems:
        problems.add("no query in it; give one a line")
    problems.raise_as(ConfigError, 'A line is a sentence, or JSON as {"query": "a dog", "filters": ["has:dog"]}.')
    return queries


def _line(text: str) -> QueryLine:
    """ValueError for JSON of another form."""
    if not text.startswith("{"):
        return QueryLine(query=text)
    content: Any = json.loads(text)
    try:
        return QueryLine.model_validate(content)
    except ValidationError as error:
        raise ValueError("; ".join(faults_of(error))) from error
