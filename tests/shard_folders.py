"""Folders of shards from arrays, without photos and extractors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from threeshnet.features.fingerprints import Fingerprints
from threeshnet.files import sha256
from threeshnet.records import ImageArrays, Photo
from threeshnet.shards.manifest import Manifest, ShardEntry, SplitEntry
from threeshnet.shards.writer import ShardWriter


def write_shard(
    path: Path, photos: Sequence[Photo], arrays: ImageArrays, prints: Fingerprints | None = None, **options: Any
) -> ShardWriter:
    """One whole shard; `options` as of `ShardWriter`."""
    with ShardWriter(path, **options) as writer:
        writer.append(photos, arrays, [photo.size or (0, 0) for photo in photos], prints)
    return writer


def write_folder(
    folder: Path, shards: Iterable[tuple[Any, ...]], *, name: str = "toy", options: Any = None, **facts: Any
) -> Manifest:
    """Shards of (photos, arrays) or (photos, arrays, fingerprints) in the photos' splits, and their manifest.

    `options` as of `ShardWriter`; `facts` are further entries of the manifest.
    """
    splits: dict[str, list[ShardEntry]] = {}
    layout = None
    for photos, *content in shards:
        split = photos[0].split
        entries = splits.setdefault(split, [])
        writer = write_shard(folder / f"{split}-{len(entries):05d}.h5", photos, *content, **options or {})
        layout = writer.layout
        entries.append(ShardEntry(writer.path.name, writer.images, writer.captions, sha256(writer.path)))
    assert layout
    totals = {
        split: SplitEntry(sum(entry.images for entry in entries), sum(entry.captions for entry in entries), (*entries,))
        for split, entries in splits.items()
    }
    manifest = Manifest(name, layout, totals, **facts)
    manifest.save(folder)
    return manifest
