"""What `make data` says at the end: the counts, what was left out, what leaked."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from threeshnet.shards.leakage import coverage, crossing, leaks
from threeshnet.shards.make import MadeShards
from threeshnet.shards.manifest import LEFT_OUT_LIST


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
    known, images = coverage(folder)
    if not known:
        return
    found = leaks(folder, distance)
    leaked = crossing(found)
    near = sum(leak.kind == "near" for leak in leaked)
    of = "" if known == images else f" (looked at {known} of {images})"
    say(console, f"leakage: {photos_are(len(leaked))} in another split too, {near} of them nearly identical{of}")
    for leak in leaked[:shown]:
        say(console, f"  {leak.splits[1]}: {leak.ids[1]} is {leak.kind} to {leak.ids[0]} of {leak.splits[0]}", "yellow")
    if len(leaked) > shown:
        say(console, f"  and {len(leaked) - shown} more: threeshnet.shards.leakage.leaks(folder) lists them")
    if twice := len(found) - len(leaked):
        say(console, f"duplicates: {twice} within a split, identical to an earlier photo of it")


def photos_are(count: int) -> str:
    """A number of photos with its verb."""
    return f"{count} photo is" if count == 1 else f"{count} photos are"


def say(console: Console, line: str, style: str | None = None) -> None:
    """A line as it is: names of files are no markup."""
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
