"""Making an index, and bringing it up to date: what is known by its content is not encoded again."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from threeshnet.errors import DataError, Problems, some
from threeshnet.index.approximate import check_faiss, write_approximate
from threeshnet.index.beside import (
    Correction,
    bank_of,
    check_onnx,
    remove_text_towers,
    write_correction,
    write_text_tower,
)
from threeshnet.index.manifest import FORMAT, PARTS, ROWS, IndexManifest, Source
from threeshnet.index.plan import Plan, check_room, current_rows, left_parts, planned, previous_manifest
from threeshnet.index.rows import SCHEMA, Rows, table_of, write_rows
from threeshnet.index.sources import Encoded, Item, ItemSource
from threeshnet.installation import current_commit
from threeshnet.retriever import Retriever
from threeshnet.runs.lock import locked

PART = 512  # items encoded between two writes: what an interruption loses
BESIDE = ("correction", "bank", "approximate")  # what is written beside the rows
OF_THE_SOURCE = ("id", "file", "caption", "bytes", "mtime")  # columns that may change though the content is the same


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


@dataclass(frozen=True)
class Options:
    """How an index is made."""

    on_error: Literal["skip", "stop"] = "skip"  # what a photo that cannot be read does
    progress: bool = True
    text_config: str | None = None  # of an authors' checkpoint
    correction: Correction | None = None
    approximate: str | None = None  # of approximate.FACTORIES
    text_tower: bool | Literal["int8"] = True  # write the text encoder for onnxruntime, where that is installed


def update_index(source: ItemSource, retriever: Retriever, out: Path, options: Options | None = None) -> Counts:
    """Make the index of a source in the folder `out`, or bring the one that is there up to date.

    Raises ConfigError when another process works there or the disk has no room, DataError for photos that cannot be
    read with on_error="stop"; what was encoded before an interruption is kept for the next call.
    """
    options = options or Options()
    if options.approximate is not None:
        check_faiss(options.approximate)
    if options.text_tower == "int8":
        check_onnx()
    with locked(out):
        made_of = source_of(source, retriever)
        items = source.items()
        previous = previous_manifest(out, made_of)
        current = list(current_rows(out, previous))
        stores = [*current, *left_parts(out, made_of)]
        plan = planned(items, stores, source, old=sum(map(len, current)))
        check_room(out, len(items), len(plan.todo), made_of.dim)
        stores, unreadable = _encoded(plan, stores, source, out, options)
        facts: dict[str, Any] = {"model": found_anywhere(str(retriever.name))}
        facts["text_config"] = options.text_config and found_anywhere(options.text_config)
        facts |= {"calibration": retriever.card.get("calibration")}
        facts["text_precision"] = "int8" if options.text_tower == "int8" else "float32"
        counts = _committed(plan, stores, unreadable, Target(out, source, made_of, previous, facts), options)
        if options.text_tower:
            write_text_tower(retriever, IndexManifest.load(out), out)
        else:
            remove_text_towers(out)
        return counts


def found_anywhere(name: str) -> str:
    """A file or folder by a path that holds in every folder; what is none, as a name on the hub, as it is."""
    return str(Path(name).absolute()) if Path(name).exists() else name


class Target(NamedTuple):
    """The index that is made."""

    out: Path
    source: ItemSource
    made_of: Source
    previous: IndexManifest | None
    facts: dict[str, Any]  # of its manifest


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


# ---- encoding


def _encoded(
    plan: Plan, stores: list[Rows], source: ItemSource, out: Path, options: Options
) -> tuple[list[Rows], list[str]]:
    """The stores with a part for every PART items of the plan, whose rows are filled in; and what was damaged."""
    damaged: list[str] = []
    number = max((int(part.name) for part in (out / PARTS).glob("[0-9]*")), default=-1) + 1
    filled = plan.stored
    unit = {"photos": "photo", "images": "image", "captions": "sentence"}[source.kind]
    with tqdm(
        total=len(plan.todo), unit=unit, desc="Indexing", disable=not options.progress, dynamic_ncols=True
    ) as bar:
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
            if options.on_error == "stop":
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


def _committed(plan: Plan, stores: Sequence[Rows], unreadable: list[str], target: Target, options: Options) -> Counts:
    """Write the rows that the items have now, then the manifest, which makes them the index."""
    out, correction = target.out, options.correction
    kept = plan.rows >= 0
    if not kept.any():
        raise DataError(f"none of {len(plan.items)} items can be indexed: {some(unreadable)}")
    items = [item for item, there in zip(plan.items, kept, strict=True) if there]
    chosen, table = plan.rows[kept], _table(stores, plan.rows[kept], items)
    manifest = IndexManifest(
        format=FORMAT,
        source=target.made_of,
        items=len(items),
        raw=target.source.raw,
        rows=f"{ROWS}{_last_number(out) + 1}",
        correction=correction.name if correction else None,
        bank=correction.facts if correction else None,
        approximate=options.approximate,
        unreadable=unreadable,
        commit=current_commit(),
        **target.facts,
    )
    before = target.previous
    same = before is not None and all(getattr(before, name) == getattr(manifest, name) for name in BESIDE)
    if before is not None and same and stores[0].holds(chosen, table):
        manifest = manifest.model_copy(update={"rows": before.rows})
    else:
        write_rows(out / manifest.rows, [store.embeddings for store in stores], chosen, table)
        if correction is not None:
            bank = bank_of(correction, before, out, progress=options.progress)
            write_correction(out / manifest.rows, Rows(out / manifest.rows).embeddings, correction.name, bank)
        if options.approximate is not None:
            write_approximate(out / manifest.rows, Rows(out / manifest.rows).embeddings, options.approximate)
    manifest.save(out)
    shutil.rmtree(out / PARTS, ignore_errors=True)
    for folder in out.glob(f"{ROWS}*"):
        if folder.name != manifest.rows:
            shutil.rmtree(folder, ignore_errors=True)
    return _counted(plan, items, table, unreadable)


def _table(stores: Sequence[Rows], chosen: np.ndarray, items: Sequence[Item]) -> pa.Table:
    """The facts of the chosen rows, under the names that their items have now."""
    table = pa.concat_tables([store.table() for store in stores]).take(pa.array(chosen))
    for name, values in _named(items).items():
        field = SCHEMA.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table


def _last_number(out: Path) -> int:
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
