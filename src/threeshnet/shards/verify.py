"""Every fault of a shard folder in one report: which shard, which row, which image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from threeshnet.annotations.photo_files import is_companion
from threeshnet.errors import DataError, Problems
from threeshnet.records import VOID
from threeshnet.shards.manifest import MANIFEST, Manifest
from threeshnet.shards.row_checks import Advance, ShardLook
from threeshnet.shards.shard_checks import look_at_shard

SHOWN = 100_000  # faults that the report lists: all that there will ever be
WAY_OUT = (
    f"Remove the shards named here (only {MANIFEST}, if it was edited by hand) and give the command that made them "
    "again: whole shards are kept."
)


@dataclass
class Counted:
    """What was found in the shards of one split."""

    images: int = 0
    captions: int = 0
    regions: int = 0
    shards: int = 0
    bytes: int = 0  # on disk
    sound_checksums: int = 0

    def add(self, look: ShardLook, size: int) -> None:
        """Take in one more shard, of `size` bytes on disk."""
        self.images += len(look.ids)
        self.captions += look.captions
        self.regions += look.regions
        self.shards += 1
        self.bytes += size
        self.sound_checksums += look.sound_checksum


@dataclass
class Findings:
    """What `look_through` found: faults make the folder unfit for training, remarks do not."""

    folder: Path
    manifest: Manifest
    faults: list[str]
    remarks: list[str]
    splits: dict[str, Counted]

    def raise_faults(self) -> None:
        """DataError with every fault, or nothing when there is none."""
        problems = Problems(str(self.folder), shown=SHOWN)
        problems.extend(self.faults)
        problems.raise_as(DataError, WAY_OUT)


def verify(folder: Path) -> Manifest:
    """Look through every shard; returns the manifest, or raises DataError with all that is wrong."""
    findings = look_through(folder)
    findings.raise_faults()
    return findings.manifest


def look_through(folder: Path, advance: Advance = lambda _: None) -> Findings:
    """Read all there is in a shard folder and gather what is wrong with it, shard by shard and row by row.

    `advance` is called with the bytes that were checked; `bytes_to_look_at` is their number in the end. Raises
    DataError only when there is no manifest that can be read.
    """
    folder = Path(folder)
    manifest = Manifest.load(folder)
    findings = Findings(folder, manifest, list(_manifest_faults(folder, manifest)), _leftovers(folder), {})
    seen: dict[str, str] = {}
    for name, split in manifest.splits.items():
        counted = findings.splits[name] = Counted()
        maps: set[bytes] = set()
        for shard in split.shards:
            look = look_at_shard(folder, manifest, shard, advance)
            look.faults += _id_faults(look.ids, shard.file, seen)
            maps |= set(look.maps)
            counted.add(look, file.stat().st_size if (file := folder / shard.file).is_file() else 0)
            findings.faults += [f"{shard.file}: {fault}" for fault in look.faults]
            findings.remarks += [f"{shard.file}: {remark}" for remark in look.remarks]
        findings.remarks += _map_remarks(name, maps, counted.images)
    return findings


def _map_remarks(split: str, maps: set[bytes], images: int) -> list[str]:
    """What is odd in the segmentation of a whole split: it is the same for all of its photos, or nothing but void."""
    if len(maps) != 1:
        return []
    classes = set(next(iter(maps)))
    if classes == {VOID}:
        return [f"split {split!r}: seg/map is void in all of its {images} images"]
    if images > 1:
        return [f"split {split!r}: seg/map is the same in all of its {images} images"]
    return []


def bytes_to_look_at(folder: Path) -> int:
    """About how many bytes `look_through` reads: every file twice, for its checksum and for its values."""
    return 2 * sum(file.stat().st_size for file in Path(folder).glob("*.h5"))


def _manifest_faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    listed = Counter(shard.file for split in manifest.splits.values() for shard in split.shards)
    for name, split in manifest.splits.items():
        yield from (f"{MANIFEST}: split {name!r} has {wrong}" for wrong in split.wrong_totals())
    yield from (f"{MANIFEST}: {file} is listed {count} times" for file, count in listed.items() if count > 1)
    yield from (f"{MANIFEST}: {file!r} is not the name of a file here" for file in listed if Path(file).name != file)
    there = sorted(file.name for file in folder.glob("*.h5") if not is_companion(file.name))
    yield from (f"{name}: not in the manifest" for name in there if name not in listed)


def _leftovers(folder: Path) -> list[str]:
    files = sorted(folder.glob("*.partial"))
    return [f"{file.name}: left behind by a run that was stopped; it is never read" for file in files]


def _id_faults(ids: list[str], shard: str, seen: dict[str, str]) -> Iterator[str]:
    """Ids that are empty or came before; `seen` is the shard of each that came before."""
    for row, name in enumerate(ids):
        if not name.strip():
            yield f"image/id is empty: row {row}"
        elif name in seen:
            yield f"image id {name!r} is in {seen[name]} too: row {row}"
        seen.setdefault(name, shard)
