"""Making an index, and bringing it up to date: what is known by its content is not encoded again."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from threeshnet.errors import ConfigError, DataError, IndexFault, Problems
from threeshnet.files import free_bytes, write_json
from threeshnet.index.manifest import FORMAT, PARTS, ROWS, IndexManifest, Source
from threeshnet.index.rows import SCHEMA, Rows, table_of, write_rows
from threeshnet.index.sources import Encoded, Item, ItemSource
from threeshnet.installation import current_commit
from threeshnet.retriever import Retriever
from threeshnet.runs.lock import locked

PART = 512  # items encoded between two writes: what an interruption loses
FACT_BYTES = 1_500  # of an item on the disk, with its objects (133 classes: 800 measured)
OF_THE_SOURCE = ("id", "file", "caption", "bytes", "mtime")  # columns that may change though the content is the same
SOURCE = "source.json"


class Counts(NamedTuple):
    """What an indexing did."""

    items: int
    encoded: int  # new and changed ones
    changed: int  # of these: their file was in the index with another content
    unchanged: int
    moved: int  # known by their content under another name
    resumed: int  # encoded by an indexing that was interrupted
    removed: int
    unreadable: list[str]


def update_index(
    source: ItemSource,
    retriever: Retriever,
    out: Path,
    *,
    on_error: Literal["skip", "stop"] = "skip",
    progress: bool = True,
    text_config: str | None = None,
) -> Counts:
    """Make the index of a source in the folder `out`, or bring the one that is there up to date.

    Raises ConfigError when another process works there or the disk has no room, DataError for photos that cannot be
    read with on_error="stop"; what was encoded before an interruption is kept for the next call.
    """
    with locked(out):
        made_of = source_of(source, retriever)
        items = source.items()
        current = list(_current(out, made_of))
        stores = [*current, *_parts(out, made_of)]
        plan = planned(items, stores, source, old=sum(map(len, current)))
        check_room(out, len(items), len(plan.todo), made_of.dim)
        stores, unreadable = _encoded(plan, stores, source, out, on_error, progress)
        return _committed(plan, stores, unreadable, made_of, source, retriever, out, text_config)


def source_of(source: ItemSource, retriever: Retriever) -> Source:
    """What decides whether an embedding can be taken over."""
    dim = retriever.encode_texts(["a photo"], progress=False).shape[1]
    names = list(source.class_names)
    return Source(
        kind=source.kind, model_hash=weights_hash(retriever), extractors=source.extractors, class_names=names, dim=dim
    )


def weights_hash(retriever: Retriever) -> str:
    """sha256 of the model's weights: the same in a checkpoint, in an exported folder and on the hub."""
    digest = hashlib.sha256()
    for name, tensor in sorted(retriever.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# ---- what is known


class Plan:
    """Which row of the stores each item has; -1 for those to encode."""

    def __init__(self, items: Sequence[Item], rows: np.ndarray, old: dict[str, str], known: int) -> None:
        """`old` is the content of each id of the present index, whose rows come first; `known` counts all rows."""
        self.items, self.rows, self.old, self.known = list(items), rows, old, known
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


def _current(out: Path, made_of: Source) -> Iterator[Rows]:
    """The rows of the index that is there, where they can be taken over."""
    with suppress(IndexFault):
        manifest = IndexManifest.load(out)
        if manifest.source == made_of:
            yield Rows(out / manifest.rows, manifest.items)


def _parts(out: Path, made_of: Source) -> Iterator[Rows]:
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


# ---- encoding


def _encoded(
    plan: Plan, stores: list[Rows], source: ItemSource, out: Path, on_error: str, progress: bool
) -> tuple[list[Rows], list[str]]:
    """The stores with a part for every PART items of the plan, whose rows are filled in; and what was damaged."""
    damaged: list[str] = []
    number = max((int(part.name) for part in (out / PARTS).glob("[0-9]*")), default=-1) + 1
    filled = plan.known
    unit = {"photos": "photo", "images": "image", "captions": "sentence"}[source.kind]
    with tqdm(total=len(plan.todo), unit=unit, desc="Indexing", disable=not progress, dynamic_ncols=True) as bar:
        for first in range(0, len(plan.todo), PART):
            places = plan.todo[first : first + PART]
            part, failed = [], Problems("photos")
            for batch in source.encode([plan.items[place] for place in places]):
                part.append(batch)
                failed.extend(batch.damaged)
                bar.update(len(batch.items) + len(batch.damaged))
            done = [item for batch in part for item in batch.items]
            if done:
                folder = out / PARTS / f"{number:05d}"
                stores.append(_write_part(folder, part, done))
                place_of = {plan.items[place].number: place for place in places}
                plan.rows[[place_of[item.number] for item in done]] = np.arange(filled, filled + len(done))
                filled, number = filled + len(done), number + 1
            if on_error == "stop":
                failed.raise_as(DataError, "Leave these out, replace them, or give on_error=skip. Others are kept.")
            damaged += failed.found
    return stores, damaged


def _write_part(folder: Path, part: Sequence[Encoded], items: Sequence[Item]) -> Rows:
    embeddings = np.concatenate([batch.embeddings for batch in part if batch.items])
    names = {name for batch in part for name in batch.facts}
    facts = {name: [value for batch in part for value in batch.facts.get(name, [])] for name in names}
    table = table_of(facts | _named(items), len(items))
    write_rows(folder, [embeddings], np.arange(len(items)), table)
    return Rows(folder)


def _named(items: Sequence[Item]) -> dict[str, list[object]]:
    return {name: [getattr(item, name) for item in items] for name in OF_THE_SOURCE}


# ---- the finished index


def _committed(
    plan: Plan,
    stores: Sequence[Rows],
    unreadable: list[str],
    made_of: Source,
    source: ItemSource,
    retriever: Retriever,
    out: Path,
    text_config: str | None,
) -> Counts:
    """Write the rows that the items have now, then the manifest, which makes them the index."""
    kept = plan.rows >= 0
    if not kept.any():
        raise DataError(f"none of {len(plan.items)} items can be indexed:\n" + Problems("photos").text())
    items = [item for item, there in zip(plan.items, kept, strict=True) if there]
    chosen = plan.rows[kept]
    table = pa.concat_tables([store.table() for store in stores]).take(pa.array(chosen))
    for name, values in _named(items).items():
        field = SCHEMA.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    first = stores[0]
    same = len(first) == len(items) and (chosen == np.arange(len(items))).all() and first.table().equals(table)
    manifest = IndexManifest(
        format=FORMAT,
        source=made_of,
        model=str(retriever.name),
        text_config=text_config,
        items=len(items),
        raw=source.raw,
        rows=first.folder.name if same and first.folder.parent == out else f"{ROWS}{_previous(out) + 1}",
        unreadable=unreadable,
        commit=current_commit(),
    )
    if manifest.rows != first.folder.name:
        write_rows(out / manifest.rows, [store.embeddings for store in stores], chosen, table)
    manifest.save(out)
    shutil.rmtree(out / PARTS, ignore_errors=True)
    for folder in out.glob(f"{ROWS}*"):
        if folder.name != manifest.rows:
            shutil.rmtree(folder, ignore_errors=True)
    return _counted(plan, items, table, unreadable)


def _previous(out: Path) -> int:
    """The number of the rows that are there, of an unfinished indexing too; 0 for none."""
    numbers = [folder.name.removeprefix(ROWS) for folder in out.glob(f"{ROWS}*")]
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def _counted(plan: Plan, items: Sequence[Item], table: pa.Table, unreadable: list[str]) -> Counts:
    old, keys = plan.old, table.column("sha256").to_pylist()
    encoded = [plan.items[place] for place in plan.todo if plan.rows[place] >= 0]
    same = sum(old.get(item.id) == key for item, key in zip(items, keys, strict=True))
    return Counts(
        items=len(items),
        encoded=len(encoded),
        changed=sum(item.id in old for item in encoded),
        unchanged=same,
        moved=len(items) - len(encoded) - same - plan.resumed,
        resumed=plan.resumed,
        removed=len(old.keys() - {item.id for item in items}),
        unreadable=unreadable,
    )
