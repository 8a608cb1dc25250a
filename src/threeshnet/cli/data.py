"""How photos and captions become shards, and the summary that is printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from rich.console import Console
from rich.table import Table

from threeshnet.errors import ConfigError, Problems, no_numbers
from threeshnet.features.extractor import Extractor
from threeshnet.features.predict import choose_sources
from threeshnet.files import check_writable
from threeshnet.installation import current_commit
from threeshnet.nn.precision import precision_of
from threeshnet.records import AnnotatedSet
from threeshnet.settings import DataSettings, plain
from threeshnet.shards.leakage import coverage, crossing, leaks
from threeshnet.shards.make import MadeShards, ShardSettings, make_shards
from threeshnet.shards.manifest import LEFT_OUT_LIST, view_name

# What `make data` and `make import` hand on as it is.
OF_SHARDS = {"images_per_shard", "limit", "batch_size", "workers", "on_error", "compression", "overwrite"}
OF_THE_PROCESS = ("part", "of", "device")  # which of several processes this is: the manifest is the same from all


def make_data(settings: DataSettings) -> None:
    """Photos and captions to shards, or with `view` to the shards of other views of them: a set for each of `views`."""
    settings = settings.model_copy(update={"precision": precision_of(settings.precision, settings.accelerator)})
    wanted = [None] if settings.view is None else numbers(settings.views)
    check_writable("out", Path(settings.out) / settings.data.name)
    annotated = instantiate(settings.data.reader).read(Path(settings.raw))
    extractor = instantiate(settings.data.extractor or settings.extractor)
    grid, segmentation = instantiate(settings.grid), instantiate(settings.segmentation)
    sources = choose_sources(
        extractor, grid=grid, segmentation=segmentation, fields=settings.fields, annotated=annotated
    )
    for number in wanted:
        make_set(settings, annotated, sources, number)


def numbers(views: Sequence[Any]) -> list[int]:
    """Which views are made.  Raises ConfigError for anything but different numbers, and for none."""
    problems = Problems("make data")
    problems.extend(no_numbers("views", views) if views else ["views=[]: name the views to make, as [1, 2, 3]"])
    problems.raise_as(ConfigError)
    return list(views)


def make_set(settings: DataSettings, annotated: AnnotatedSet, sources: Sequence[Extractor], number: int | None) -> None:
    """One set of shards: the photos as they are, or one view of them."""
    name = settings.data.name if number is None else view_name(settings.data.name, number)
    config = plain(settings) | {"views": [] if number is None else [number]}
    made = make_shards(
        annotated._replace(name=name),
        sources=sources,
        folder=Path(settings.out) / name,
        raw=Path(settings.raw),
        settings=ShardSettings(
            **settings.model_dump(include=OF_SHARDS | {"part", "accelerator", "device", "precision"}),
            parts=settings.of,
            progress=settings.progress and settings.device == 0,  # bars of several processes overwrite each other
            config={key: value for key, value in config.items() if key not in OF_THE_PROCESS},
            commit=current_commit(),
            view=None if number is None else instantiate(settings.view, number=number),
        ),
    )
    console = Console()
    if made.finished is None:
        show_share(made, console, part=settings.part, parts=settings.of)
        return
    show(made, console)
    if settings.leakage_distance is not None and number is None:  # a box of a photo says less than the photo does
        show_leakage(made.folder, console, settings.leakage_distance)


def show(made: MadeShards, console: Console, shown: int = 20) -> None:
    """A row a split, the photos that were left out, and where the shards lie."""
    manifest = made.manifest
    table = Table(title=f"{manifest.dataset}: {', '.join(manifest.fields)}")
    for name in ("split", "images", "captions", "shards", "left out", "photos/s"):
        table.add_column(name, justify="left" if name == "split" else "right")
    without_split = len(manifest.left_out)  # captions of no photo, photos without a caption
    for name, split in manifest.splits.items():
        left_out = sum(line.startswith(f"{name}: ") for line in manifest.left_out)
        without_split -= left_out
        speed = f"{made.speed[name]:.0f}" if name in made.speed else "made before"
        cells = (split.images, split.captions, len(split.shards), left_out)
        table.add_row(name, *map(str, cells), speed)
    if without_split:
        table.add_row("no split", "", "", "", str(without_split), "")
    console.print(table)
    for line in manifest.left_out[:shown]:
        say(console, f"left out: {line}", style="yellow")
    if manifest.left_out:
        more = max(0, len(manifest.left_out) - shown)
        say(console, f"{f'and {more} more; ' if more else ''}all of them: {made.folder / LEFT_OUT_LIST}")
    before = f", {made.kept} were there already" if made.kept else ""
    say(console, f"{made.made} shard files made{before}: {made.folder}")


def show_share(made: MadeShards, console: Console, *, part: int, parts: int) -> None:
    """What a part did that is not the last to finish."""
    say(console, f"part {part} of {parts}: {made.made} shard files made, {made.kept} were there already: {made.folder}")
    say(
        console,
        f"Still missing: {made.missing} that other parts make. The last to finish writes the manifest; parts made on "
        "separate disks are copied into one folder, and the same command once more writes it there.",
    )


def show_leakage(folder: Path, console: Console, distance: int, shown: int = 5) -> None:
    """How many photos are in two splits, and the first of them; nothing for shards whose photos were not seen."""
    fingerprinted, images = coverage(folder)
    if not fingerprinted:
        return
    duplicates = leaks(folder, distance)
    leaked = crossing(duplicates)
    near = sum(leak.kind == "near" for leak in leaked)
    of = "" if fingerprinted == images else f" (looked at {fingerprinted} of {images})"
    say(console, f"leakage: {photos_are(len(leaked))} in another split too, {near} of them nearly identical{of}")
    for leak in leaked[:shown]:
        say(console, f"  {leak.splits[1]}: {leak.ids[1]} is {leak.kind} to {leak.ids[0]} of {leak.splits[0]}", "yellow")
    if len(leaked) > shown:
        say(console, f"  and {len(leaked) - shown} more: threeshnet.shards.leakage.leaks(folder) lists them")
    if twice := len(duplicates) - len(leaked):
        say(console, f"duplicates: {twice} within a split, identical to an earlier photo of it")


def photos_are(count: int) -> str:
    """A number of photos with its verb."""
    return f"{count} photo is" if count == 1 else f"{count} photos are"


def say(console: Console, line: str, style: str | None = None) -> None:
    """A line as it is: names of files are no markup."""
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
