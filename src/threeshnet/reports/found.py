"""Answers of a search as a page: one file that needs no server and no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from threeshnet.index.index import Index
from threeshnet.index.query import Answer
from threeshnet.reports.contact_sheet import thumbnail
from threeshnet.reports.html import write_html


class Shown(NamedTuple):
    """One result on the page."""

    name: str
    link: str  # address of the photo, empty where the index knows none
    picture: str  # the address again, or a small picture as a data URI
    score: float
    probability: float | None
    duplicates: int


def write_page(file: Path, answers: Sequence[Answer], index: Index, *, embed: bool = True) -> Path:
    """Write the page and return its file.

    With `embed` small pictures are part of it, so that it can be sent; else it shows the photos where they lie.
    """
    content = [
        {
            "query": answer.query,
            "answerable": answer.answerable,
            "matches": answer.matches,
            "photos": [_shown(answer, place, index, embed) for place in range(len(answer.results))],
        }
        for answer in answers
    ]
    return write_html(file, "search.html", {"answers": content})


def _shown(answer: Answer, place: int, index: Index, embed: bool) -> Shown:
    result = answer.results[place]
    link = picture = ""
    if result.file and index.manifest.raw:
        photo = index.photo_path(result.id)
        link = photo.absolute().as_uri()
        picture = thumbnail(photo) if embed else link
    name = result.caption if result.caption is not None else result.file or result.id
    return Shown(name, link, picture, result.score, result.probability, len(result.duplicates))
