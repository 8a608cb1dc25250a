"""What may be wrong with one shard: its datasets, their shapes, and how captions and regions hang on images."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np

from threeshnet.files import sha256
from threeshnet.processes import ends_with
from threeshnet.shards.manifest import Manifest, ShardEntry
from threeshnet.shards.row_checks import Advance, RowNames, ShardLook, chunks, look_at_texts, look_at_values, text_of
from threeshnet.shards.schema import ARRAYS, MAX_REGIONS, array_of
from threeshnet.shards.structure import UNREADABLE, form_faults, rows_of, strange_datasets
from threeshnet.shards.writer import LEFT_OUT

# A fork starts in milliseconds, but only Linux's is safe beside a library's threads; the child touches none of them.
GUARD = "fork" if sys.platform == "linux" else "spawn"
NOTHING = np.zeros(0, np.int64)


def look_at_shard(folder: Path, manifest: Manifest, shard: ShardEntry, advance: Advance) -> ShardLook:
    """Look through one shard file, alone; `advance` is called with the bytes that were checked."""
    file = folder / shard.file
    if not file.is_file():
        return ShardLook(["missing"])
    actual = sha256(file, advance=advance)
    if actual == shard.sha256:
        look = look_inside(file, manifest, shard, advance)
        look.sound_checksum = True
        return look
    # The bytes are not those that were written, and HDF5's C library can crash on damaged inner pages.
    before = ends_with(os.getpid()) if GUARD == "fork" else None
    with ProcessPoolExecutor(1, multiprocessing.get_context(GUARD), before) as process:
        try:
            look = process.submit(look_inside, file, manifest, shard).result()
        except BrokenProcessPool:
            look = ShardLook(["cannot be read (the process that read it crashed)"])
    look.faults.insert(0, f"sha256 {actual[:12]}…; the manifest says {shard.sha256[:12]}…")
    return look


def look_inside(file: Path, manifest: Manifest, shard: ShardEntry, advance: Advance = lambda _: None) -> ShardLook:
    """Look through everything in one file but its checksum."""
    look = ShardLook()
    try:
        with h5py.File(file, "r", locking=False) as opened:
            _look(opened, manifest, shard, look, advance)
    except UNREADABLE as error:
        look.faults.append(f"cannot be read ({error})")
    return look


def _look(opened: h5py.File, manifest: Manifest, shard: ShardEntry, look: ShardLook, advance: Advance) -> None:
    look.faults += strange_datasets(opened)
    if look.faults:
        return
    look.captions, look.regions = rows_of(opened, "caption/text"), rows_of(opened, "region/features")
    keys: list[str] = []
    opened.visititems(lambda key, item: keys.append(key) if isinstance(item, h5py.Dataset) else None)
    unknown_keys = sorted(set(keys) - set(ARRAYS) - {LEFT_OUT})
    look.remarks += [f"{key} is not part of a shard; it is never read" for key in unknown_keys]
    faults, misshapen = form_faults(opened, manifest.layout, images=shard.images, captions=shard.captions)
    look.faults += faults
    for name, count in (("images", shard.images), ("captions", shard.captions)):
        if name in opened.attrs and int(opened.attrs[name]) != count:  # pyright: ignore[reportArgumentType]
            look.faults.append(f"says of itself that it has {opened.attrs[name]} {name}; the manifest says {count}")
    names = RowNames([], NOTHING, NOTHING)
    try:
        names = _look_at_structure(opened, {key for key in ARRAYS if key in opened} - misshapen, look)
    except UNREADABLE as error:
        look.faults.append(f"image/, caption/ or region/offsets cannot be read ({error})")
    look_at_values(opened, manifest.classes, names, look, advance, misshapen)
    if "seg/map" in opened and "seg/map" not in misshapen:
        with suppress(*UNREADABLE):  # said already
            for row in (row.tobytes() for _, part in chunks(opened["seg/map"], lambda _: None) for row in part):
                if row not in look.maps:
                    look.maps.append(row)
                if len(look.maps) > 1:
                    break


def _look_at_structure(opened: h5py.File, there: set[str], look: ShardLook) -> RowNames:
    """Look at ids, captions and region offsets, of the datasets `there`, and make what names rows out of them."""
    keys = ("image/id", "image/file", "caption/text", "caption/owner", "region/offsets")
    stored = {key: array_of(opened, key)[:] for key in keys if key in there}
    ids = [text_of(name) for name in stored.get("image/id", ())]
    look.ids = [f"row {row}" if name is None else name for row, name in enumerate(ids)]
    owners, offsets = stored.get("caption/owner", NOTHING), stored.get("region/offsets", NOTHING)
    names = RowNames(look.ids, owners, offsets)
    for key in keys[:3]:
        look_at_texts(key, stored.get(key, ()), names, look)
    look.faults += _caption_faults(stored.get("caption/text", NOTHING), owners, len(ids), names)
    bare = np.setdiff1d(np.arange(len(ids)), owners)
    if len(bare):
        look.remarks.append(f"no caption for {len(bare)} of {len(ids)} images: {names.say('image/id', bare)}")
    if len(offsets):
        look.faults += _offset_faults(offsets, look.regions, len(ids), names)
    return names


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
        actual = f"{len(offsets)} from {offsets[0]} to {offsets[-1]}"
        yield f"region/offsets: {actual}; expected {images + 1} from 0 to {regions}"
    if len(wrong):
        fewest, most = counts[wrong].min(), counts[wrong].max()
        span = str(fewest) if fewest == most else f"{fewest} to {most}"
        yield f"region/offsets gives an image {span} regions, not 1 to {MAX_REGIONS}: {names.say('image/id', wrong)}"
