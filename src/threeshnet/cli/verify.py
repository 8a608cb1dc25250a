"""How shards are looked through, and their data card written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from threeshnet.files import check_writable
from threeshnet.reports.data_card import write_card
from threeshnet.settings import VerifySettings
from threeshnet.shards.manifest import CARD, open_shards
from threeshnet.shards.row_checks import Advance
from threeshnet.shards.verify import Findings, bytes_to_look_at, look_through


def verify_shards(settings: VerifySettings) -> None:
    """Look through shards, name every fault, write the data card."""
    folder = open_shards(settings.shards)
    card = folder / CARD if settings.out is None else Path(settings.out)
    if settings.card:
        check_writable("out", card.parent)
    started = time.perf_counter()
    with advancing(bytes_to_look_at(folder), shown=settings.progress) as advance:
        findings = look_through(folder, advance)
    console = Console()
    show_remarks(findings, console)
    findings.raise_faults()
    console.print(table_of(findings, seconds=time.perf_counter() - started))
    if settings.card:
        write_card(folder, out=card, photos=settings.photos, seed=settings.seed)
        console.print(f"data card: {card}", highlight=False, soft_wrap=True)


@contextmanager
def advancing(total: int, *, shown: bool) -> Iterator[Advance]:
    """A progress bar on stderr, in bytes."""
    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(TextColumn("verify"), *columns, console=console, disable=not shown, transient=True) as progress:
        task = progress.add_task("verify", total=total)
        yield lambda count: progress.update(task, advance=count)


def show_remarks(findings: Findings, console: Console) -> None:
    """What is worth knowing and no fault."""
    for remark in findings.remarks:
        console.print(f"remark: {remark}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def table_of(findings: Findings, *, seconds: float) -> Table:
    """A row a split, what the fields are, and how long it took."""
    counted = findings.splits
    total = sum(split.bytes for split in counted.values())
    speed = f"{total / 1e6:,.0f} MB in {seconds:.1f} s, {total / 1e6 / seconds:,.0f} MB/s; no faults"
    title = f"{findings.manifest.dataset}\n{', '.join(fields_of(findings))}"
    table = Table(title=title, caption=speed)
    for name in ("split", "images", "captions", "regions", "shards", "MB", "checksums"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for name, split in counted.items():
        numbers = (split.images, split.captions, split.regions, split.shards, round(split.bytes / 1e6))
        sound = f"{split.sound_checksums} of {split.shards} right"
        table.add_row(name, *(f"{number:,}" for number in numbers), sound)
    return table


def fields_of(findings: Findings) -> Iterator[str]:
    """The fields with their widths and types, as `grid 7x7x1280 float16`."""
    layout = findings.manifest.layout
    height, width = layout.grid_size or (0, 0)
    shapes = {"region": f"{layout.region_width}", "grid": f"{height}x{width}x{layout.grid_width}"}
    shapes["seg"] = f"{layout.classes} classes"
    dtypes = {str(name): dtype for name, dtype in layout.dtypes.items()}
    yield from (f"{name} {shapes[name]} {dtypes[name]}" for name in layout.fields)
