"""What is asked of an index, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from threeshnet.errors import ConfigError, Problems

if TYPE_CHECKING:
    from PIL import Image

LONGEST = 2_000  # characters of a sentence; models read 512 wordpieces or fewer


@dataclass(frozen=True)
class Query:
    """A sentence, a photo, or both: then `text_weight` is the share of the sentence.

    `without` are sentences that the answers should not match; `filters` are words of `filters.py`, all of which hold.
    Raises ConfigError, once for all that is wrong.
    """

    text: str | None = None
    image: Path | Image.Image | None = None
    text_weight: float = 0.5
    without: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    like: str | None = None  # id of an indexed item, which takes the place of a photo
    mask: Path | None = None  # of the photo, for a model that was trained with annotated segmentation
    sha256: str = ""  # of the bytes of a photo that is no file

    def __post_init__(self) -> None:
        problems = Problems("query")
        if self.text is None and self.image is None and self.like is None:
            problems.add("neither a sentence nor a photo: give query=<sentence>, image=<photo>, or both")
        for name, text in (("query", self.text), *(("without", text) for text in self.without)):
            if text is not None and not text.strip():
                problems.add(f"{name}={text!r}: expected a sentence")
            elif text is not None and len(text) > LONGEST:
                problems.add(f"{name}: a sentence of {len(text):,} characters; {LONGEST:,} are the most")
        if self.mask is not None and self.image is None:
            problems.add(f"mask={self.mask}: the mask of a photo; give image=<photo> too")
        if not 0 <= self.text_weight <= 1:
            problems.add(f"text_weight={self.text_weight}: expected 0 (the photo alone) to 1 (the sentence alone)")
        problems.raise_as(ConfigError)

    @property
    def name(self) -> str:
        """The sentence, or the photo's name."""
        photo = str(self.image) if isinstance(self.image, Path) else "a photo"
        return self.text if self.text is not None else photo


class Result(NamedTuple):
    """One item that was found."""

    id: str
    file: str | None  # relative to the index's folder of photos
    score: float  # cosine similarity, less what it resembles `without`
    probability: float | None  # that it is an answer; None without a calibration
    row: int
    duplicates: tuple[str, ...] = ()  # ids of near-duplicates that this one stands for
    caption: str | None = None  # of an index of captions


@dataclass(frozen=True)
class Answer:
    """What was found for a query, the best first."""

    query: str
    answerable: float | None  # probability that the index holds an answer at all; None without a calibration
    matches: bool | None  # whether that is likely enough
    results: list[Result] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As the command line and the API give it."""
        return {
            "query": self.query,
            "answerable": self.answerable,
            "matches": self.matches,
            "results": [_plain(result) for result in self.results],
        }


def _plain(result: Result) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": result.id,
        "file": result.file,
        "score": round(result.score, 6),
        "probability": None if result.probability is None else round(result.probability, 6),
    }
    if result.duplicates:
        shown["duplicates"] = list(result.duplicates)
    if result.caption is not None:
        shown["caption"] = result.caption
    return shown


def as_texts(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """One text, several, or none, as a setting gives them."""
    return () if given is None else (given,) if isinstance(given, str) else tuple(given)
