"""Which photos go into which shard file, and which of the files are there already."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from threeshnet.annotations.photo_files import is_companion
from threeshnet.errors import DataError, Problems
from threeshnet.files import sha256
from threeshnet.records import AnnotatedSet, Photo
from threeshnet.shards.manifest import CARD, LEFT_OUT_LIST, MANIFEST, Manifest
from threeshnet.shards.schema import FORMAT, array_of
from threeshnet.shards.writer import FINGERPRINT, LEFT_OUT, MASKS, inside


@dataclass(frozen=True)
class PlannedShard:
    """One file to make: its split and its photos in order."""

    split: str
    file: str
    photos: tuple[Photo, ...]
    fingerprint: str  # of photos, captions and extractors


def plan_shards(
    annotated: AnnotatedSet, *, raw: Path, makers: Any, images_per_shard: int, limit: int | None = None
) -> list[PlannedShard]:
    """Every split cut into files of nearly equal size, at most `images_per_shard` images; `limit` is a split's first.

    `makers` identifies the extractors. DataError when there is no photo or ids occur twice.
    """
    counts = Counter(photo.id for photo in annotated.photos)
    problems = Problems(f"data set {annotated.name!r}")
    problems.extend(f"photo id {name!r} occurs {count} times" for name, count in counts.items() if count > 1)
    if not annotated.photos:
        problems.add("no photos")
    problems.raise_as(DataError, "put the annotation file right")
    planned = []
    for split in dict.fromkeys(photo.split for photo in annotated.photos):
        photos = [photo for photo in annotated.photos if photo.split == split][:limit]
        files = math.ceil(len(photos) / images_per_shard)
        for number in range(files):
            part = tuple(photos[number * len(photos) // files : (number + 1) * len(photos) // files])
            digest = _fingerprint(part, annotated, raw, makers)
            planned.append(PlannedShard(split, f"{split}-{number:05d}.h5", part, digest))
    return planned


def folder_fingerprint(planned: Sequence[PlannedShard]) -> str:
    """One fingerprint over all shards of a folder."""
    content = [[shard.file, shard.fingerprint] for shard in planned]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def masks_digest(planned: Sequence[PlannedShard]) -> str:
    """One hash over the content of all masks that belong to the photos; empty without masks."""
    photos = [photo for shard in planned for photo in shard.photos]
    masks = [[photo.id, sha256(photo.segmentation)] for photo in photos if photo.segmentation is not None]
    return hashlib.sha256(json.dumps(masks).encode()).hexdigest() if masks else ""


def changed_photos(file: Path, photos: Sequence[Photo]) -> list[str]:
    """Ids of the photos of a shard whose files have other bytes now than when it was made, where it says."""
    with h5py.File(file, "r") as opened:
        if "image/sha256" not in opened:
            return []
        ids, stored = array_of(opened, "image/id").asstr()[:], array_of(opened, "image/sha256")[:]
        digests = {name: bytes(row).hex() for name, row in zip(ids, stored, strict=True)}
    return [photo.id for photo in photos if photo.id in digests and sha256(photo.file) != digests[photo.id]]


def unfinished(folder: Path, planned: Sequence[PlannedShard], *, contents: bool = False) -> list[PlannedShard]:
    """The shards that still have to be made; DataError when the folder holds shards that are not of this plan.

    contents: look into every photo and mask that shards were made from: their sizes may be equal.
    """
    plan = {shard.file: shard for shard in planned}
    foreign = Problems(f"{folder} holds shards of other photos, captions or settings")
    finished = set()
    for file in sorted(file for file in folder.glob("*.h5") if not is_companion(file.name)):
        stored = stored_fingerprint(file)
        if stored is None:
            foreign.add(f"{file.name}: not a readable HDF5 file")
        elif file.name not in plan:
            foreign.add(f"{file.name}: not among the files that would be made now")
        elif stored != plan[file.name].fingerprint:
            foreign.add(f"{file.name}: made differently")
        else:
            finished.add(file.name)
            if contents and (changed := changed_photos(file, plan[file.name].photos)):
                shown = ", ".join(changed[:3]) + (", …" if len(changed) > 3 else "")
                foreign.add(f"{file.name}: {len(changed)} photos have other content now: {shown}")
            if contents and stored_masks(file) not in ("", masks_digest([plan[file.name]])):
                foreign.add(f"{file.name}: masks of photos have other content now")
    if (folder / MANIFEST).is_file():
        manifest = Manifest.load(folder)
        if manifest.fingerprint != folder_fingerprint(planned):
            foreign.add(f"{MANIFEST}: {_made_with(manifest)}")
        # The digest is empty in manifests from before masks were noted.
        elif contents and not foreign and manifest.masks and manifest.masks != masks_digest(planned):
            foreign.add(f"{MANIFEST}: masks of photos have other content now")
    foreign.raise_as(DataError, "choose another folder (out=…, or make data OUT=…), or replace it: overwrite=true")
    return [shard for shard in planned if shard.file not in finished]


def remove_shards(folder: Path) -> None:
    """Remove the manifest, what belongs to it and every shard, and nothing else; the manifest goes first."""
    for pattern in (MANIFEST, CARD, LEFT_OUT_LIST, "*.h5", "*.h5.partial"):
        for file in folder.glob(pattern):
            file.unlink()


def stored_fingerprint(file: Path) -> str | None:
    """The fingerprint in a shard file, None when the file cannot be read."""
    try:
        with h5py.File(file, "r") as shard:
            return str(shard.attrs.get(FINGERPRINT, ""))
    except OSError:
        return None


def stored_masks(file: Path) -> str:
    """The hash of the masks that a shard was made with; empty without masks and in files from before it was kept."""
    with h5py.File(file, "r") as shard:
        return str(shard.attrs.get(MASKS, ""))


def stored_left_out(file: Path) -> list[str]:
    """Photos that a shard file has no row for, each with its reason."""
    with h5py.File(file, "r") as shard:
        return json.loads(array_of(shard, LEFT_OUT)[()]) if LEFT_OUT in shard else []


def _fingerprint(photos: Sequence[Photo], annotated: AnnotatedSet, raw: Path, makers: Any) -> str:
    rows = [
        [photo.id, inside(photo.file, raw), photo.captions, photo.tags, _bytes(photo.file), _bytes(photo.segmentation)]
        for photo in photos
    ]
    content = [FORMAT, annotated.name, annotated.classes, makers, rows]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _bytes(file: Path | None) -> int | None:
    """Size of a file, in which other pixels under the same name (another compression) nearly always show."""
    try:
        return None if file is None else file.stat().st_size
    except OSError:
        return None


def _made_with(manifest: Manifest) -> str:
    counts = ", ".join(f"{split} {entry.images}" for split, entry in manifest.splits.items())
    makers = ", ".join(f"{field} by {maker.get('name')}" for field, maker in manifest.extractors.items())
    return f"it says data set {manifest.dataset!r} ({counts} images), {makers}"
