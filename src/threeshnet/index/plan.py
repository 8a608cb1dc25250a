"""What an indexing finds: the items of its source, and which of them are known by their content."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from threeshnet.errors import ConfigError, IndexFault
from threeshnet.files import free_bytes, write_json
from threeshnet.index.manifest import PARTS, IndexManifest, Source
from threeshnet.index.rows import Rows
from threeshnet.index.sources import Item, ItemSource

FACT_BYTES = 1_500  # of an item on the disk, with its objects (133 classes: 800 measured)
SOURCE = "source.json"  # beside the parts: what they are of


class Plan:
    """Which row of the stores each item has; -1 for those to encode."""

    def __init__(self, items: Sequence[Item], rows: np.ndarray, old: dict[str, str], stored: int) -> None:
        """`old` is the content of each id of the present index, whose rows come first; `stored` counts all rows."""
        self.items, self.rows, self.old, self.stored = list(items), rows, old, stored
        self.resumed = int((rows >= len(old)).sum())
        self.todo = [place for place, row in enumerate(rows) if row < 0]


def planned(items: Sequence[Item], stores: Sequence[Rows], source: ItemSource, *, old: int) -> Plan:
    """Which items the stores hold, by their content; the first `old` rows are those of the present index.

    A file of the recorded name, size and time has the recorded content; others are hashed where a known content has
    their size.
    """
    columns = ["id", "file", "bytes", "mtime", "sha256"]
    tables = [store.table(columns) for store in stores]
    facts = pa.concat_tables(tables).to_pydict() if tables else {name: [] for name in columns}
    keys: list[str] = facts["sha256"]
    by_key = {key: row for row, key in reversed(list(enumerate(keys)))}
    by_id = {name: row for row, name in reversed(list(enumerate(facts["id"])))}
    recorded = list(zip(facts["file"], facts["bytes"], facts["mtime"], strict=True))
    sizes = set(facts["bytes"])
    rows = np.full(len(items), -1, np.int64)
    for place, item in enumerate(items):
        own = by_id.get(item.id, -1)
        key = item.key
        if not key and own >= 0 and recorded[own] == (item.file, item.bytes, item.mtime):
            key = keys[own]
        if not key and item.bytes in sizes:
            with suppress(OSError):  # it will be reported when it is decoded
                key = source.key(item)
        rows[place] = own if own >= 0 and keys[own] == key else by_key.get(key, -1)
    present = dict(zip(facts["id"][:old], keys, strict=False))
    return Plan(items, rows, present, len(keys))


def previous_manifest(out: Path, made_of: Source) -> IndexManifest | None:
    """That of the index that is there, where its rows can be taken over."""
    with suppress(IndexFault):
        manifest = IndexManifest.load(out)
        return manifest if manifest.source == made_of else None
    return None


def current_rows(out: Path, manifest: IndexManifest | None) -> Iterator[Rows]:
    if manifest is not None:
        with suppress(IndexFault):
            yield Rows(out / manifest.rows, manifest.items)


def left_parts(out: Path, made_of: Source) -> Iterator[Rows]:
    """What an indexing that was interrupted left; parts of another source are removed."""
    folder = out / PARTS
    try:
        same = Source.model_validate_json((folder / SOURCE).read_bytes()) == made_of
    except (OSError, ValueError):
        same = False
    if not same:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / SOURCE, made_of.model_dump())
    for part in sorted(folder.glob("[0-9]*")):
        with suppress(IndexFault):  # the last one may be torn
            yield Rows(part)


def check_room(out: Path, items: int, todo: int, dim: int) -> None:
    """Raises ConfigError where the disk has no room for the parts and the index, which exist beside the old one."""
    needed = (items + todo) * (4 * dim + FACT_BYTES)
    if (free := free_bytes(out)) < needed:
        raise ConfigError(
            f"out={out}: {needed / 1e6:,.0f} MB are needed for {items:,} items and {free / 1e6:,.0f} MB are free; make "
            "room, or give another OUT (out=<folder>)"
        )
