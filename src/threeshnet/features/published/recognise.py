"""Which layouts a folder has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from threeshnet.errors import DataError, Problems
from threeshnet.features.published.layout import Asked, Found, PublishedLayout


class AnyLayout:
    """Tries every layout; a folder that has several (captions of one, regions of another) gives a source of each."""

    def __init__(self, *, layouts: Mapping[str, PublishedLayout]) -> None:
        self.layouts = dict(layouts)

    def fitting(self, raw: Path) -> list[PublishedLayout]:
        """The layouts that `raw` has. DataError with what each of them missed when it has none."""
        missed = {name: layout.missed(raw) for name, layout in self.layouts.items()}
        fitting = [layout for name, layout in self.layouts.items() if not missed[name]]
        if not fitting:
            problems = Problems(f"{raw} is of no layout that can be imported")
            problems.extend(f"{name} ({layout.holds}): {missed[name]}" for name, layout in self.layouts.items())
            problems.raise_as(DataError, "Is it the right folder? A layout can be named: layout=<one of these>.")
        return fitting


def opened_sources(
    folders: Sequence[Path], *, layout: AnyLayout | PublishedLayout, asked: Asked
) -> tuple[list[Found], Problems]:
    """Every source in the folders, and what is wrong with them. DataError for a folder that is of no layout."""
    problems = Problems(f"import of {', '.join(map(str, folders))}")
    sources = []
    for raw in folders:
        if not raw.exists():
            problems.add(f"raw={raw} does not exist")
            continue
        for fitting in layout.fitting(raw) if isinstance(layout, AnyLayout) else [_checked(layout, raw)]:
            sources.append(fitting.open(raw, asked, problems))
    return sources, problems


def _checked(layout: PublishedLayout, raw: Path) -> PublishedLayout:
    if missed := layout.missed(raw):
        raise DataError(f"{raw}: layout={layout.name} needs {layout.holds}; {missed}")
    return layout
