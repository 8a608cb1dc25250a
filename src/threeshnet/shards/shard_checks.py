"""What may be wrong with one shard: its datasets, their shapes, and how captions and regions hang on images."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from threeshnet.files import sha256
from threeshnet.shards.manifest import Manifest, ShardEntry
from threeshnet.shards.row_checks import Advance, Notes, RowNames, chunks, look_at_texts, look_at_values, text_of
from threeshnet.shards.schema import ARRAYS, MAX_REGIONS, expected_shapes, layout_of_file, needed_keys
from threeshnet.shards.structure import (
    UNREADABLE,
    count_faults,
    misshapen_datasets,
    rows_of,
    strange_datasets,
)
from threeshnet.shards.writer import LEFT_OUT

# A fork starts in milliseconds, but only Linux's is safe beside a library's threads; the child touches none of them.
GUARD = "fork" if sys.platform == "linux" else "spawn"
NOTHING = np.zeros(0, np.int64)


@dataclass
class ShardLook:
    """What one shard holds, and the findings about it."""

    notes: Notes = field(default_factory=Notes)
    ids: list[str] = field(default_factory=list)
    captions: int = 0
    regions: int = 0
    maps: list[bytes] = field(default_factory=list)  # different ones of `seg/map`, two at most
    sound_checksum: bool = False


def look_at_shard(folder: Path, manifest: Manifest, shard: ShardEntry, advance: Advance) -> ShardLook:
    """Look through one shard file, alone; `advance` is called with the bytes that were checked."""
    file = folder / shard.file
    if not file.is_file():
        return ShardLook(Notes(["missing"]))
    found = sha256(file, advance=advance)
    if found == shard.sha256:
        look = look_inside(file, manifest, shard, advance)
        look.sound_checksum = True
        return look
    # The bytes are not those that were written, and HDF5's C library can crash on damaged inner pages.
    with ProcessPoolExecutor(1, multiprocessing.get_context(GUARD)) as process:
        try:
            look = process.submit(look_inside, file, manifest, shard).result()
        except BrokenProcessPool:
            look = ShardLook(Notes(["cannot be read (the process that read it crashed)"]))
    look.notes.faults.insert(0, f"sha256 {found[:12]}…; the manifest says {shard.sha256[:12]}…")
    return look


def look_inside(file: Path, manifest: Manifest, shard: ShardEntry, advance: Advance = lambda _: None) -> ShardLook:
    """Look through everything in one file but its checksum."""
    look = ShardLook()
    try:
        with h5py.File(file, "r", locking=False) as opened:
            _look(opened, manifest, shard, look, advance)
    except UNREADABLE as error:
        look.notes.faults.append(f"cannot be read ({error})")
    return look


def _look(opened: h5py.File, manifest: Manifest, shard: ShardEntry, look: ShardLook, advance: Advance) -> None:
    notes = look.notes
    if strange := strange_datasets(opened, ARRAYS):
        notes.faults += strange
        return
    counts = {"images": shard.images, "captions": shard.captions, "regions": rows_of(opened, "region/features")}
    shapes = expected_shapes(manifest.layout, **counts)
    notes.remarks += [f"{key} is not part of a shard; it is never read" for key in _strangers(opened, shapes)]
    missing = [key for key in needed_keys(manifest.layout) if key not in opened]
    if missing:
        notes.faults.append(f"no {', '.join(missing)}")
    else:
        notes.faults += manifest.layout.differences(layout_of_file(opened))
    look.captions, look.regions = rows_of(opened, "caption/text"), rows_of(opened, "region/features")
    notes.faults += _own_counts(opened, shard)
    notes.faults += count_faults(opened, shapes)
    misshapen = dict(misshapen_datasets(opened, shapes))
    notes.faults += misshapen.values()
    names = RowNames([], NOTHING, NOTHING)
    try:
        names = _look_at_structure(opened, {key for key in shapes if key in opened} - set(misshapen), look)
    except UNREADABLE as error:
        notes.faults.append(f"image/, caption/ or region/offsets cannot be read ({error})")
    look_at_values(opened, manifest.classes, names, notes, advance, skipped=misshapen)
    if "seg/map" in shapes and "seg/map" in opened and "seg/map" not in misshapen:
        look.maps = _different_maps(opened["seg/map"])


def _different_maps(maps: Any) -> list[bytes]:
    """The first map, and the first that differs from it."""
    found: list[bytes] = []
    with suppress(*UNREADABLE):  # said already
        for row in (row.tobytes() for _, part in chunks(maps, lambda _: None) for row in part):
            if row not in found:
                found.append(row)
            if len(found) > 1:
                break
    return found


def _look_at_structure(opened: h5py.File, there: set[str], look: ShardLook) -> RowNames:
    """Look at ids, captions and region offsets, of the datasets `there`, and make what names rows out of them."""
    notes = look.notes
    stored = {key: _array(opened, key) for key in ("image/id", "image/file", "caption/text") if key in there}
    ids = [text_of(name) for name in stored.get("image/id", ())]
    look.ids = [f"row {row}" if name is None else name for row, name in enumerate(ids)]
    owners = _array(opened, "caption/owner") if "caption/owner" in there else NOTHING
    offsets = _array(opened, "region/offsets") if "region/offsets" in there else NOTHING
    names = RowNames(look.ids, owners, offsets)
    for key, texts in stored.items():
        look_at_texts(key, texts, names, notes)
    notes.faults += _caption_faults(stored.get("caption/text", NOTHING), owners, len(ids), names)
    bare = np.setdiff1d(np.arange(len(ids)), owners)
    if len(bare):
        notes.remarks.append(f"no caption for {len(bare)} of {len(ids)} images: {names.say('image/id', bare)}")
    if len(offsets):
        notes.faults += _offset_faults(offsets, look.regions, len(ids), names)
    return names


def _strangers(opened: h5py.File, known: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    opened.visititems(lambda key, item: found.append(key) if isinstance(item, h5py.Dataset) else None)
    return sorted(set(found) - set(known) - {LEFT_OUT})


def _own_counts(opened: h5py.File, shard: ShardEntry) -> Iterator[str]:
    for name, count in (("images", shard.images), ("captions", shard.captions)):
        if name in opened.attrs and int(opened.attrs[name]) != count:  # pyright: ignore[reportArgumentType]
            yield f"says of itself that it has {opened.attrs[name]} {name}; the manifest says {count}"


def _caption_faults(texts: np.ndarray, owners: np.ndarray, images: int, names: RowNames) -> Iterator[str]:
    empty = np.array([row for row, text in enumerate(texts) if not text.strip()], np.int64)
    if len(empty):
        yield f"{len(empty)} empty captions: {names.say('caption/text', empty)}"
    strays = np.flatnonzero((owners < 0) | (owners >= images))
    if len(strays):
        span = f"from {owners.min()} to {owners.max()}; there are images 0 to {images - 1}"
        yield f"caption/owner {span}: {names.say('caption/owner', strays)}"
    falls = np.flatnonzero(np.diff(owners) < 0) + 1
    if len(falls):
        yield f"caption/owner goes back to an earlier image: {names.say('caption/owner', falls)}"


def _offset_faults(offsets: np.ndarray, regions: int, images: int, names: RowNames) -> Iterator[str]:
    counts = np.diff(offsets)
    wrong = np.flatnonzero((counts < 1) | (counts > MAX_REGIONS))
    if offsets[0] != 0 or offsets[-1] != regions:
        found = f"{len(offsets)} from {offsets[0]} to {offsets[-1]}"
        yield f"region/offsets: {found}; expected {images + 1} from 0 to {regions}"
    if len(wrong):
        fewest, most = counts[wrong].min(), counts[wrong].max()
        span = str(fewest) if fewest == most else f"{fewest} to {most}"
        yield f"region/offsets gives an image {span} regions, not 1 to {MAX_REGIONS}: {names.say('image/id', wrong)}"


def _array(opened: h5py.File, key: str) -> np.ndarray:
    dataset: Any = opened[key]
    return dataset[:]
