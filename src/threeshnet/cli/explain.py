"""How a match is explained."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from threeshnet.errors import ConfigError, DataError, Problems
from threeshnet.explanations.explanation import CLASSES, EXPLANATION, Contribution, Explanation
from threeshnet.features.photos import open_photo
from threeshnet.files import check_writable, replacing, write_json
from threeshnet.retriever import Retriever
from threeshnet.settings import ExplainSettings

NAME = "explanation"


def explain_photo(settings: ExplainSettings) -> None:
    """Why a photo matches a sentence: a table, a picture and JSON."""
    check(settings)
    photo, out = open_photo(Path(settings.image)), Path(settings.out)
    retriever = Retriever.load(
        settings.checkpoint,
        extractor=settings.extractor,
        grid=settings.grid,
        segmentation=settings.segmentation,
        text_config=settings.text_config,
    )
    explanation = retriever.explain(settings.image, settings.query, mask=settings.mask)
    with replacing(out / f"{NAME}.png") as partial:
        explanation.draw(photo).save(partial, "PNG")
    write_json(out / f"{NAME}.json", {"image": settings.image} | explanation.to_json())
    console = Console()
    console.print(table_of(explanation, settings.top))
    console.print(Text(f"{explanation.remark}\n{out / NAME}.png, {out / NAME}.json"), soft_wrap=True)


def check(settings: ExplainSettings) -> None:
    """Raises ConfigError for an empty sentence or table, DataError for files that are not there."""
    problems = Problems("explain")
    if not settings.query.strip():
        problems.add('query="" is empty: give the sentence to explain')
    if settings.top < 1:
        problems.add(f"top={settings.top}: expected 1 or more places")
    problems.raise_as(ConfigError)
    check_writable("out", settings.out)
    for key, file in (("image", settings.image), ("mask", settings.mask)):
        if file and not Path(file).is_file():
            raise DataError(f"{key}={file}: no such file")


def table_of(explanation: Explanation, top: int) -> Table:
    """The places with the largest effects, and the photo as a whole."""
    is_one = explanation.shown_as == EXPLANATION
    title = Text(f"{explanation.sentence}\nsimilarity {explanation.score:.4f}")
    table = Table(title=title, caption=None if is_one else "weights, not an explanation")
    for name in ("", "place", "left, top, right, bottom (%)", "there"):
        table.add_column(name)
    for name in ("effect", "share", "VSeM"):
        table.add_column(name, justify="right")
    for number, contribution in enumerate(explanation.contributions[:top], start=1):
        table.add_row(str(number) if is_one else "", *cells(explanation, contribution))
    if explanation.photo is not None:
        table.add_row("", *cells(explanation, explanation.photo))
    return table


def cells(explanation: Explanation, contribution: Contribution) -> list[str]:
    """One place as a row."""
    place = contribution.place
    whole = place.kind == "photo"
    box = "" if place.box is None else " ".join(f"{100 * side:.0f}" for side in place.box)
    there = [f"{name} {100 * share:.0f}%" for name, share in list(explanation.classes(place).items())[:CLASSES]]
    return [
        "photo (categories)" if whole else f"{place.kind} {explanation.name_of(place)}",
        "" if whole else box,
        "" if whole else ", ".join(there),
        f"{contribution.effect:+.4f}",
        "" if contribution.share is None else f"{contribution.share:+.4f}",
        "" if contribution.weight is None else f"{contribution.weight:.2f}",
    ]
