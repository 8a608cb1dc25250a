"""Every fault of a shard folder in one report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from threeshnet.errors import DataError, Problems
from threeshnet.records import VOID
from threeshnet.shards.manifest import MANIFEST, Manifest, ShardEntry, file_sha256
from threeshnet.shards.schema import CAPTION_KEYS, IMAGE_KEYS, MAX_REGIONS, REQUIRED, layout_of_file

ROWS = 256  # images looked at together, to bound memory
OPTIONAL = ("caption/tag", "image/size")


def verify(folder: Path) -> Manifest:
    """Look through every shard; returns the manifest, or raises DataError with all that is wrong."""
    folder = Path(folder)
    manifest = Manifest.load(folder)
    problems = Problems(str(folder), shown=100)
    seen: dict[str, str] = {}
    listed = {shard.file for split in manifest.splits.values() for shard in split.shards}
    for name, split in manifest.splits.items():
        for count in ("images", "captions"):
            total = sum(getattr(shard, count) for shard in split.shards)
            if total != getattr(split, count):
                problems.add(f"{MANIFEST}: split {name!r} has {getattr(split, count)} {count}, its shards {total}")
        for shard in split.shards:
            problems.extend(f"{shard.file}: {fault}" for fault in _shard_faults(folder, manifest, shard, seen))
    problems.extend(f"{file.name}: not in the manifest" for file in folder.glob("*.h5") if file.name not in listed)
    problems.raise_as(DataError, "remove the files named and make the data again: finished shards are kept")
    return manifest


def _shard_faults(folder: Path, manifest: Manifest, shard: ShardEntry, seen: dict[str, str]) -> Iterator[str]:
    file = folder / shard.file
    if not file.is_file():
        yield "missing"
        return
    if (found := file_sha256(file)) != shard.sha256:
        yield f"sha256 {found[:12]}…; the manifest says {shard.sha256[:12]}…"
    try:
        with h5py.File(file, "r", locking=False) as opened:
            keys = (*IMAGE_KEYS, *CAPTION_KEYS, *(key for field in manifest.fields for key in REQUIRED[field]))
            missing = [key for key in keys if key not in opened and key not in OPTIONAL]
            if missing:
                yield f"no {', '.join(missing)}"
                return
            yield from manifest.layout.differences(layout_of_file(opened))
            yield from _image_faults(opened, shard, seen)
            yield from _caption_faults(opened, shard)
            yield from _region_faults(opened, shard)
            yield from _value_faults(opened, manifest)
    except (OSError, RuntimeError) as error:
        yield f"cannot be read ({error})"


def _image_faults(opened: h5py.File, shard: ShardEntry, seen: dict[str, str]) -> Iterator[str]:
    for key in ("image/id", "image/file", "image/size", "grid/features", "seg/semantic", "seg/map", "seg/categories"):
        if key in opened and len(_data(opened, key)) != shard.images:
            yield f"{key} has {len(_data(opened, key))} rows; the manifest says {shard.images}"
    for name in _data(opened, "image/id").asstr()[:]:
        if name in seen:
            yield f"image id {name!r} is in {seen[name]} too"
        seen[name] = shard.file


def _caption_faults(opened: h5py.File, shard: ShardEntry) -> Iterator[str]:
    owners = _data(opened, "caption/owner")[:]
    texts = _data(opened, "caption/text").asstr()[:]
    if not len(owners) == len(texts) == shard.captions:
        yield f"{len(texts)} captions, {len(owners)} owners; the manifest says {shard.captions}"
    if len(owners) and (owners.min() < 0 or owners.max() >= shard.images):
        yield f"caption/owner from {owners.min()} to {owners.max()}; there are images 0 to {shard.images - 1}"
    empty = sum(not text.strip() for text in texts)
    if empty:
        yield f"{empty} empty captions"


def _region_faults(opened: h5py.File, shard: ShardEntry) -> Iterator[str]:
    if "region/offsets" not in opened:
        return
    offsets, rows = _data(opened, "region/offsets")[:], len(_data(opened, "region/features"))
    counts = np.diff(offsets)
    if len(offsets) != shard.images + 1 or offsets[0] != 0 or offsets[-1] != rows:
        found = f"{len(offsets)} from {offsets[0]} to {offsets[-1]}"
        yield f"region/offsets: {found}; expected {shard.images + 1} from 0 to {rows}"
    elif counts.min() < 1 or counts.max() > MAX_REGIONS:
        yield f"an image with {counts.min()} and one with {counts.max()} regions; 1 to {MAX_REGIONS} are allowed"
    for key in ("region/boxes", "region/scores"):
        if key in opened and len(_data(opened, key)) != rows:
            yield f"{key} has {len(_data(opened, key))} rows for {rows} regions"


def _value_faults(opened: h5py.File, manifest: Manifest) -> Iterator[str]:
    for key in ("region/features", "grid/features", "seg/semantic"):
        if key in opened and not all(np.isfinite(part).all() for part in _parts(_data(opened, key))):
            yield f"{key} has numbers that are not finite"
    if "seg/map" in opened and manifest.classes is not None:
        found = {int(number) for part in _parts(_data(opened, "seg/map")) for number in np.unique(part)} - {VOID}
        if found and max(found) >= manifest.classes:
            yield f"seg/map has class {max(found)}; there are 0 to {manifest.classes - 1}, and {VOID} for void"


def _parts(dataset: Any) -> Iterator[np.ndarray]:
    for start in range(0, len(dataset), ROWS):
        yield dataset[start : start + ROWS]


def _data(opened: h5py.File, key: str) -> Any:
    return opened[key]
