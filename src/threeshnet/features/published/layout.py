"""What a layout of published arrays is: it says whether a folder has it, and which images it holds and where.

To add one: a subclass of `PublishedLayout` in a file of its own and `conf/layout/<name>.yaml` with its `_target_`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from threeshnet.errors import DataError, Problems, some

FLOATS = ("float16", "float32", "float64")
FEW = 10  # a layout with a tenth of the files of another is no layout, but what lies beside it


class RowReader:
    """Reads the arrays of one image, by the names of `ImageArrays`. It travels to the loading processes."""

    def read(self, key: Any) -> Mapping[str, np.ndarray]:
        """Arrays of one image without a batch axis; DataError (or OSError) when they cannot be read."""
        raise NotImplementedError

    def where(self, key: Any) -> str:
        """File and row, for messages; here `key` is the file of the image."""
        return key.name


class Entry(NamedTuple):
    """One image of a published set."""

    id: str
    key: Any  # where the reader finds it: a row, a place in a file, a file
    file: Path
    split: str | None = None
    captions: tuple[str, ...] = ()
    size: tuple[int, int] | None = None  # width, height in pixels
    regions: int | None = None  # their number, where it is known before they are read


class Request(NamedTuple):
    """What of a published set is wanted; None is all."""

    splits: tuple[str, ...] | None = None
    fields: tuple[str, ...] | None = None
    on_error: str = "skip"  # an image whose arrays are damaged: skip or stop

    def wants(self, field: str) -> bool:
        return self.fields is None or field in self.fields


class Source(NamedTuple):
    """What a folder holds: the images and how each is read."""

    layout: str
    raw: Path
    entries: tuple[Entry, ...]
    fields: tuple[str, ...]  # of region, grid, seg; none for captions alone
    reader: RowReader
    files: tuple[Path, ...]  # all that the arrays come from
    dtypes: Mapping[str, frozenset[str]]  # field -> types that its arrays have in the source
    boxes: Literal["none", "pixels", "shares"] = "none"
    scores: bool = False
    grid_size: tuple[int, int] | None = None  # H, W
    remarks: tuple[str, ...] = ()  # what was decided on the way and is worth a line
    left_out: tuple[str, ...] = ()  # images that cannot be read, each with its reason


class PublishedLayout:
    """Base of the layouts."""

    name = "layout"
    holds = "nothing"  # what a folder of this layout holds, for messages

    def image_files(self, raw: Path) -> list[Path]:
        """The files of a layout that has one for each image; none for the others."""
        return []

    def missed(self, raw: Path) -> str:
        """What `raw` (a folder, or a file) lacks to be of this layout; empty when it is."""
        raise NotImplementedError

    def open(self, raw: Path, request: Request, problems: Problems) -> Source:
        """The images in `raw`. What is wrong goes to `problems`; the result counts when there are none."""
        raise NotImplementedError


def repeated(ids: list[str]) -> Iterator[str]:
    """Ids that occur a second time."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            yield name
        seen.add(name)


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


def without_neighbours(raw: Path, fitting: Sequence[PublishedLayout], remarks: list[str]) -> list[PublishedLayout]:
    """The layouts without those of a few files that only lie beside the files of another, such as `sizes.npy`."""
    files = {layout.name: layout.image_files(raw) for layout in fitting}
    most = max(map(len, files.values()), default=0)
    of_sets = any(not files[layout.name] for layout in fitting if layout.name != "precomputed")
    kept = []
    for layout in fitting:
        own = files[layout.name]
        beside = bool(own) and all(file.parent == raw for file in own)
        if beside and (of_sets or len(own) * FEW < most):
            names = some([file.name for file in own])
            remarks.append(f"{raw}: not read: {names}; if they hold images, say layout={layout.name}")
        else:
            kept.append(layout)
    return kept


def opened_sources(
    folders: Sequence[Path], *, layout: AnyLayout | PublishedLayout, request: Request
) -> tuple[list[Source], Problems]:
    """Every source in the folders, and what is wrong with them. DataError for a folder that is of no layout."""
    problems = Problems(f"import of {', '.join(map(str, folders))}")
    sources = []
    for raw in folders:
        if not raw.exists():
            problems.add(f"raw={raw} does not exist")
            continue
        remarks: list[str] = []
        if isinstance(layout, AnyLayout):
            layouts = layout.fitting(raw)
        elif missed := layout.missed(raw):
            raise DataError(f"{raw}: layout={layout.name} needs {layout.holds}; {missed}")
        else:
            layouts = [layout]
        for fitting in without_neighbours(raw, layouts, remarks):
            source = fitting.open(raw, request, problems)
            sources.append(source._replace(remarks=(*source.remarks, *remarks)))
            remarks = []
    return sources, problems
