"""What may be wrong with one shard: its datasets, their shapes, and how captions and regions hang on images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from threeshnet.records import MAP_SIDE, SCENE_SIDE
from threeshnet.shards.guarded import CrashError, guarded
from threeshnet.shards.manifest import Manifest, ShardEntry
from threeshnet.shards.row_checks import Advance, Notes, RowNames, look_at_texts, look_at_values, text_of
from threeshnet.shards.schema import MAX_REGIONS, REQUIRED, layout_of_file
from threeshnet.shards.writer import LEFT_OUT

NEEDED = ("image/id", "image/file", "caption/text", "caption/owner")  # of every shard, whatever its fields
KINDS = {  # NumPy's letters of the types that a dataset may have
    **dict.fromkeys(("image/id", "image/file", "caption/text", "caption/tag"), "O"),
    **dict.fromkeys(("image/size", "caption/owner", "region/offsets", "region/labels"), "i"),
    **dict.fromkeys(("image/sha256", "image/perceptual_hash", "seg/map", "seg/categories"), "u"),
    **dict.fromkeys(("region/features", "region/boxes", "region/scores", "grid/features", "seg/semantic"), "f"),
}
NOTHING = np.zeros(0, np.int64)
HASHED_BYTES = 1 << 22  # read together
UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError)  # what h5py raises on damaged files


@dataclass
class ShardLook:
    """What one shard holds and what there is to say about it."""

    notes: Notes = field(default_factory=Notes)
    ids: list[str] = field(default_factory=list)
    captions: int = 0
    regions: int = 0
    sound_checksum: bool = False


def look_at_shard(folder: Path, manifest: Manifest, shard: ShardEntry, advance: Advance) -> ShardLook:
    """Look through one shard file, alone; `advance` is told of bytes as they are looked at."""
    file = folder / shard.file
    if not file.is_file():
        return ShardLook(Notes(["missing"]))
    found = _sha256(file, advance)
    if found == shard.sha256:
        look = look_inside(file, manifest, shard, advance)
        look.sound_checksum = True
        return look
    try:  # the bytes are not those that were written, so anything may be in them
        look = guarded(look_inside, file, manifest, shard)
    except CrashError as error:
        look = ShardLook(Notes([f"cannot be read ({error})"]))
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
    shapes = expected_shapes(manifest, shard, rows_of(opened, "region/features"))
    notes.remarks += [f"{key} is not part of a shard; it is never read" for key in _strangers(opened, shapes)]
    needed = (*NEEDED, *(key for name in manifest.fields for key in REQUIRED[name]))
    missing = [key for key in needed if key not in opened]
    if missing:
        notes.faults.append(f"no {', '.join(missing)}")
    else:
        notes.faults += manifest.layout.differences(layout_of_file(opened))
    look.captions, look.regions = rows_of(opened, "caption/text"), rows_of(opened, "region/features")
    notes.faults += _own_counts(opened, shard)
    notes.faults += _count_faults(opened, shapes)
    misshapen = dict(_misshapen(opened, shapes))
    notes.faults += misshapen.values()
    names = RowNames([], NOTHING, NOTHING)
    try:
        names = _look_at_structure(opened, {key for key in shapes if key in opened} - set(misshapen), look)
    except UNREADABLE as error:
        notes.faults.append(f"image/, caption/ or region/offsets cannot be read ({error})")
    look_at_values(opened, manifest.classes, names, notes, advance, skipped=misshapen)


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


def expected_shapes(manifest: Manifest, shard: ShardEntry, regions: int) -> Mapping[str, tuple[int, ...]]:
    """The shape of every dataset that a shard may have; `regions` is the number of regions in it."""
    layout, images, captions = manifest.layout, shard.images, shard.captions
    height, width = layout.grid_size or (0, 0)
    classes = layout.classes or 0
    return {
        "image/id": (images,),
        "image/file": (images,),
        "image/size": (images, 2),
        "image/sha256": (images, 32),
        "image/perceptual_hash": (images,),
        "caption/text": (captions,),
        "caption/owner": (captions,),
        "caption/tag": (captions,),
        "region/features": (regions, layout.region_width or 0),
        "region/offsets": (images + 1,),
        "region/boxes": (regions, 4),
        "region/scores": (regions,),
        "region/labels": (regions,),
        "grid/features": (images, height * width, layout.grid_width or 0),
        "seg/semantic": (images, classes, SCENE_SIDE, SCENE_SIDE),
        "seg/map": (images, MAP_SIDE, MAP_SIDE),
        "seg/categories": (images, classes),
    }


def rows_of(opened: h5py.File, key: str) -> int:
    """Rows of a dataset, 0 when there is no such dataset."""
    return len(opened[key]) if key in opened else 0  # pyright: ignore[reportArgumentType]


def _sha256(file: Path, advance: Advance) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(HASHED_BYTES):
            digest.update(part)
            advance(len(part))
    return digest.hexdigest()


def _strangers(opened: h5py.File, known: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    opened.visititems(lambda key, item: found.append(key) if isinstance(item, h5py.Dataset) else None)
    return sorted(set(found) - set(known) - {LEFT_OUT})


def _own_counts(opened: h5py.File, shard: ShardEntry) -> Iterator[str]:
    for name, count in (("images", shard.images), ("captions", shard.captions)):
        if name in opened.attrs and int(opened.attrs[name]) != count:  # pyright: ignore[reportArgumentType]
            yield f"says of itself that it has {opened.attrs[name]} {name}; the manifest says {count}"


def _count_faults(opened: h5py.File, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Datasets with more or fewer rows than they should have, those with the same numbers in one line."""
    wrong: dict[tuple[int, int], list[str]] = {}
    for key, expected in shapes.items():
        found = rows_of(opened, key)
        if key in opened and found != expected[0]:
            wrong.setdefault((found, expected[0]), []).append(key)
    for (found, expected), keys in wrong.items():
        yield f"{', '.join(keys)}: {found} rows; expected {expected}"


def _misshapen(opened: h5py.File, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, str]]:
    """Datasets whose rows have another shape or type than they should, each with what to say of it."""
    for key, expected in shapes.items():
        if key not in opened:
            continue
        found, kind = opened[key].shape[1:], opened[key].dtype.kind  # pyright: ignore
        if found != expected[1:]:
            yield key, f"{key} has rows of shape {found}; expected {expected[1:]}"
        elif kind not in KINDS[key]:
            yield key, f"{key} is of type {opened[key].dtype}, which cannot be"  # pyright: ignore


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
