"""Photos of one split that are in another too: what is measured on them was seen in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import h5py
import numpy as np

from threeshnet.features.fingerprints import Fingerprints, joined
from threeshnet.shards.manifest import Manifest, SplitEntry
from threeshnet.shards.schema import FINGERPRINT_KEYS, array_of

DISTANCE = 4  # of 64 bits; copies shrunk or compressed again stay within it, different photos begin at 9 (Flickr8k)
LEAST_BITS = 24  # a hash has 32 bits set unless contrasts are missing; with fewer it is of a plain picture
QUERY_ROWS, GALLERY_ROWS = 64, 1 << 13  # compared at once: their differences stay in the cache


class Leak(NamedTuple):
    """A photo that is there twice: first where it is taken to be at home, then where it is too."""

    kind: Literal["identical", "near"]  # the same bytes, or a perceptual hash within the distance
    splits: tuple[str, str]  # the same split twice for a photo that a split holds twice
    ids: tuple[str, str]
    files: tuple[str, str]  # relative to the manifest's `raw`
    distance: int  # bits in which the perceptual hashes differ


@dataclass(frozen=True)
class Prints:
    """What the photos of a split are recognised by."""

    split: str
    ids: Sequence[str]
    files: Sequence[str]
    digests: np.ndarray  # [n] bytes of 32
    hashes: np.ndarray  # [n] uint64
    images: int  # of the split; more than `ids` where shards hold no fingerprints


def leaks(folder: Path, distance: int = DISTANCE) -> list[Leak]:
    """Photos in two splits of a shard folder, then those that one split holds twice.

    One entry for each photo of the later split (manifest's order) and each earlier split: its like of the same bytes,
    else the nearest within `distance` bits; so the number of entries is the number of photos that leaked. Within a
    split identical bytes alone are looked for, and each photo is paired with the first of its kind. Mirrored and
    cropped photos are not found. Empty, too, for shards whose photos were never seen: see `coverage`.
    """
    splits = split_prints(folder)
    across_splits = [leak for home, other in combinations(splits, 2) for leak in across(home, other, distance)]
    return across_splits + [leak for prints in splits for leak in within(prints)]


def coverage(folder: Path) -> tuple[int, int]:
    """How many images of the folder have fingerprints, and how many there are."""
    splits = split_prints(folder)
    return sum(len(prints.ids) for prints in splits), sum(prints.images for prints in splits)


def crossing(pairs: Sequence[Leak]) -> list[Leak]:
    """Those between two splits: the leakage."""
    return [leak for leak in pairs if leak.splits[0] != leak.splits[1]]


def across(home: Prints, other: Prints, distance: int) -> Iterator[Leak]:
    """Photos of `other` that are in `home` too."""
    rows = dict(zip(home.digests[::-1].tolist(), range(len(home.ids))[::-1], strict=True))  # the first of equals
    plain = np.bitwise_count(other.hashes) < LEAST_BITS
    nearest, bits = nearest_within(other.hashes, home.hashes, distance)
    for row, digest in enumerate(other.digests.tolist()):
        if digest in rows:
            yield _leak("identical", home, rows[digest], other, row, 0)
        elif nearest[row] >= 0 and not plain[row]:
            yield _leak("near", home, int(nearest[row]), other, row, int(bits[row]))


def within(prints: Prints) -> Iterator[Leak]:
    """Photos that a split holds more than once, each with the first of its bytes."""
    first: dict[bytes, int] = {}
    for row, digest in enumerate(prints.digests.tolist()):
        if digest in first:
            yield _leak("identical", prints, first[digest], prints, row, 0)
        first.setdefault(digest, row)


def nearest_within(queries: np.ndarray, gallery: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each query the first of the gallery's nearest, -1 where none lies within `distance` bits, and how far it is.

    queries: [q] uint64; gallery: [g] uint64 -> [q] int64, [q] uint8. Compared block by block, so memory does not grow.
    """
    nearest = np.full(len(queries), -1, np.int64)
    best = np.full(len(queries), distance + 1, np.uint8)
    differing = np.empty((QUERY_ROWS, GALLERY_ROWS), np.uint64)
    for start in range(0, len(gallery), GALLERY_ROWS):
        block = gallery[start : start + GALLERY_ROWS]
        for first in range(0, len(queries), QUERY_ROWS):
            rows = slice(first, first + QUERY_ROWS)
            part = queries[rows]
            bits = np.bitwise_count(np.bitwise_xor(part[:, None], block, out=differing[: len(part), : len(block)]))
            least = bits.min(axis=1)
            if (closer := least < best[rows]).any():
                nearest[rows][closer] = start + bits[closer].argmin(axis=1)
                best[rows][closer] = least[closer]
    return nearest, best


def split_prints(folder: Path) -> list[Prints]:
    """The fingerprints that the shards of a folder hold, split by split."""
    manifest = Manifest.load(folder)
    return [_prints(Path(folder), name, entry) for name, entry in manifest.splits.items()]


def _prints(folder: Path, name: str, entry: SplitEntry) -> Prints:
    ids: list[str] = []
    files: list[str] = []
    parts: list[Fingerprints] = []
    for shard in entry.shards:
        with h5py.File(folder / shard.file, "r", locking=False) as opened:
            if all(key in opened for key in FINGERPRINT_KEYS):
                parts.append(Fingerprints(*(array_of(opened, key)[:] for key in FINGERPRINT_KEYS)))
                ids += array_of(opened, "image/id").asstr()[:].tolist()
                files += array_of(opened, "image/file").asstr()[:].tolist()
    fingerprints = joined(parts) or Fingerprints(np.empty((0, 32), np.uint8), np.empty(0, np.uint64))
    digests = np.ascontiguousarray(fingerprints.sha256).view("V32").reshape(-1)
    return Prints(name, ids, files, digests, fingerprints.perceptual_hash, entry.images)


def _leak(kind: Literal["identical", "near"], home: Prints, first: int, other: Prints, row: int, bits: int) -> Leak:
    ids, files = (home.ids[first], other.ids[row]), (home.files[first], other.files[row])
    return Leak(kind, (home.split, other.split), ids, files, bits)
