"""How an index is made, or brought up to date."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from threeshnet.errors import ConfigError, shortened
from threeshnet.files import check_writable
from threeshnet.index.beside import CORRECTIONS, Correction, check_correction
from threeshnet.index.build import Counts, Options, update_index
from threeshnet.index.index import Index
from threeshnet.index.sources import ItemSource, PhotoFolder, ShardCaptions, ShardImages
from threeshnet.retriever import Retriever
from threeshnet.settings import IndexSettings
from threeshnet.shards.manifest import open_shards
from threeshnet.shards.reader import ShardedSplit

SHOWN = 20  # unreadable photos
ALWAYS = ("encoded", "unchanged")  # counts that are printed when they are 0


def index_items(settings: IndexSettings) -> None:
    """Make an index of photos or shards, or bring it up to date; print what was done."""
    if (settings.raw is None) == (settings.shards is None):
        given = f"raw={settings.raw}, shards={settings.shards}"
        raise ConfigError(f"give raw=<folder of photos> or shards=<folder of shards>, one of the two: {given}")
    started = time.perf_counter()
    check_writable("out", settings.out)
    retriever = Retriever.load(
        settings.checkpoint,
        extractor=settings.extractor,
        grid=settings.grid,
        segmentation=settings.segmentation,
        text_config=settings.text_config,
        device=settings.device,
    )
    options = Options(
        on_error=settings.on_error,
        progress=settings.progress,
        text_config=settings.text_config,
        correction=correction_of(settings, retriever),
        approximate=settings.approximate,
        text_tower=settings.text_tower,
    )
    counts = update_index(source_of(settings, retriever), retriever, Path(settings.out), options)
    if settings.cluster is not None:
        opened = Index.open(settings.out, cluster=settings.cluster).cluster
        assert opened is not None
        opened.push()
    show(counts, settings.out, time.perf_counter() - started, Console())


def source_of(settings: IndexSettings, retriever: Retriever) -> ItemSource:
    """What the settings ask to index."""
    if settings.raw is not None:
        masks = Path(settings.masks) if settings.masks else None
        workers, together = settings.workers, settings.batch_size
        return PhotoFolder(retriever, Path(settings.raw), masks=masks, batch_size=together, workers=workers)
    split = ShardedSplit(open_shards(str(settings.shards)), settings.split)
    return ShardCaptions(retriever, split) if settings.of == "captions" else ShardImages(retriever, split)


def correction_of(settings: IndexSettings, retriever: Retriever) -> Correction | None:
    """The hub correction that the settings ask for."""
    if (settings.bank is None) != (settings.correction is None):
        raise ConfigError(
            f"bank={settings.bank}, correction={settings.correction}: a hub correction takes both, the shards of the "
            f"training and one of {', '.join(CORRECTIONS)}"
        )
    if settings.bank is None or settings.correction is None:
        return None
    check_correction(settings.correction)
    split = ShardedSplit(open_shards(settings.bank), settings.bank_split)
    searched = settings.shards is not None and settings.of == "captions"
    bank = ShardImages(retriever, split) if searched else ShardCaptions(retriever, split)
    facts = {"kind": bank.kind, "split": split.name, "fingerprint": split.manifest.fingerprint, "rows": len(split)}
    return Correction(settings.correction, bank, facts | {"data": split.manifest.dataset})


def show(counts: Counts, out: str, seconds: float, console: Console) -> None:
    """What was done, and the photos that are left out."""
    done = {
        "encoded": counts.encoded,
        "of these changed": counts.changed,
        "unchanged": counts.unchanged,
        "moved": counts.moved,
        "from an interrupted run": counts.resumed,
        "removed": counts.removed,
        "unreadable": len(counts.unreadable),
    }
    said = ", ".join(f"{number:,} {name}" for name, number in done.items() if number or name in ALWAYS)
    console.print(f"{out}: {counts.items:,} items; {said} ({seconds:.1f} s)", highlight=False, soft_wrap=True)
    for reason in counts.unreadable[:SHOWN]:
        console.print(f"left out: {shortened(reason)}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    if len(counts.unreadable) > SHOWN:
        console.print(f"and {len(counts.unreadable) - SHOWN} more, in manifest.json", style="yellow", highlight=False)
