"""Random access to the images and captions of one split, shard files opened lazily in each process."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from copy import copy
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np

from threeshnet.errors import DataError, Problems, one_of
from threeshnet.records import ImageArrays
from threeshnet.shards.direct import announce
from threeshnet.shards.files import OPEN_FILES, ShardFiles
from threeshnet.shards.manifest import MAKE_DATA, MANIFEST, Manifest, ShardEntry, SplitEntry
from threeshnet.shards.remote import RemoteStore, store_of
from threeshnet.shards.schema import FIELDS, READ_BY_MODELS, array_of, row_types
from threeshnet.shards.structure import UNREADABLE, form_faults, rows_of, strange_datasets
from threeshnet.shards.texts import Texts

FEW_OPEN_FILES = 4


class ShardedSplit:
    """One split of a shard folder. Images and captions are numbered from 0 in the order of the shards.

    Attributes: `name`, `manifest`, `images`, `captions` (counts), `owners` [captions] int32, and sequences of str that
    are read from the shards at first use: `caption_texts`, `caption_tags`, `image_ids`, `image_files`.
    Owners and counts of regions stay in memory. Raises DataError when files are missing or do not hold
    what the manifest says.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.name = Path(folder), split
        self.manifest = Manifest.load(self.folder)
        if split not in self.manifest.splits:
            other_name = "; val is called dev here" if split == "val" and "dev" in self.manifest.splits else ""
            raise DataError(f"{self.folder}: {one_of('split', split, self.manifest.splits)}{other_name}")
        self._entry: SplitEntry = self.manifest.splits[split]
        self._store = store_of(self.folder, {shard.file: shard.sha256 for shard in self._entry.shards})
        self.images, self.captions = self._entry.images, self._entry.captions
        counts = [shard.images for shard in self._entry.shards]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._row_types = row_types(self.manifest.layout)
        self._offsets: list[np.ndarray | None] = []
        self._files = self._new_files()
        owners: list[np.ndarray] = [np.zeros(0, np.int32)]
        problems = Problems(f"{self.folder}, split {split!r}")
        problems.extend(f"{MANIFEST}: the split has {wrong}" for wrong in self._entry.wrong_totals())
        for shard, start in zip(self._entry.shards, self._starts[:-1], strict=True):
            problems.extend(self._take_in(shard, int(start), owners))
        problems.raise_as(DataError, f"{MAKE_DATA} (again: finished shards are kept)")
        self.owners = np.concatenate(owners)

    @cached_property
    def image_ids(self) -> Sequence[str]:
        return self._texts("image/id")

    @cached_property
    def image_files(self) -> Sequence[str]:
        """Relative to the manifest's `raw`."""
        return self._texts("image/file")

    @cached_property
    def caption_texts(self) -> Sequence[str]:
        return self._texts("caption/text")

    @cached_property
    def caption_tags(self) -> Sequence[str]:
        """Empty texts where shards have none."""
        return self._texts("caption/tag")

    def read(
        self, numbers: Sequence[int] | np.ndarray, fields: Collection[str] | None = None, *, extras: bool = True
    ) -> ImageArrays:
        """Arrays of these images in this order; numbers may repeat. `fields`: of region, grid, seg; None is all.

        Without `extras` regions come without scores and labels, which no model reads. Raises DataError when a shard
        cannot be read any more.
        """
        wanted = self.manifest.fields if fields is None else tuple(fields)
        self._check_fields(wanted)
        requested = np.asarray(numbers, dtype=np.int64)
        if len(requested) and not (requested.min() >= 0 and requested.max() < self.images):
            numbered = f"image {requested.min()} to {requested.max()}"
            raise IndexError(f"{numbered} of split {self.name!r} with {self.images} images")
        unique, positions = np.unique(requested, return_inverse=True)
        parts: dict[str, Any] = {}
        if "region" in wanted:
            parts |= self._read_regions(unique, positions, extras=extras)
        if "grid" in wanted:
            parts["grid"] = self._read_rows("grid/features", unique, positions)
            if self.manifest.grid_size is not None:
                cells = cell_boxes(*self.manifest.grid_size)
                parts["grid_boxes"] = np.broadcast_to(cells, (len(requested), *cells.shape))
        if "seg" in wanted:
            for name in ("semantic", "map", "categories"):
                parts[f"seg_{name}"] = self._read_rows(f"seg/{name}", unique, positions)
        return ImageArrays(**parts)

    def sizes(self) -> np.ndarray:
        """Width and height of every photo in pixels, [images, 2] int32; zeros where unknown."""
        everyone = np.arange(self.images)
        return self._read_rows("image/size", everyone, everyone)

    def image_path(self, number: int) -> Path:
        """The photo of an image, where photos lie as they did when the shards were made."""
        return self.manifest.photos(self.folder) / self.image_files[number]

    def home(self, number: int) -> tuple[str, int]:
        """The shard file of an image, and its row there."""
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._entry.shards[shard].file, number - int(self._starts[shard])

    def image_bytes(self, fields: Collection[str]) -> int:
        """Uncompressed bytes of an image on the disk, with the mean number of regions."""
        regions = sum(int(offsets[-1]) for offsets in self._offsets if offsets is not None) / max(1, self.images)
        total = 0.0
        for key in self._keys(fields):
            shape, dtype = self._row_types[key]
            total += dtype.itemsize * int(np.prod(shape)) * (regions if key.startswith("region/") else 1)
        return round(total)

    def announce(self, numbers: np.ndarray, fields: Collection[str]) -> int:
        """Let the system fetch the features of these images (sorted, distinct) into its cache; returns their bytes."""
        pieces: dict[int, list[tuple[int, int]]] = {}
        for shard, first, end, _ in self._runs(numbers):
            for key in self._keys(fields):
                low, high = self._region_rows(shard, first, end) if key.startswith("region/") else (first, end)
                direct = self._files.direct(shard, key)
                if direct is not None:
                    pieces.setdefault(shard, []).extend(direct.pieces(low, high))
        return sum(announce(self._files.descriptor(shard), runs) for shard, runs in pieces.items())

    def again(self) -> Self:
        """The same split with open files of its own, for another thread."""
        twin = copy(self)
        twin._files = self._new_files()
        return twin

    def close(self) -> None:
        """Close the files; reading opens them again."""
        self._files.close()

    def __len__(self) -> int:
        return self.images

    # --- opening

    def _new_files(self) -> ShardFiles:
        # A file that is open takes its room on the disk even when the cache of a remote store has removed it.
        return ShardFiles(self._path_of, most=FEW_OPEN_FILES if isinstance(self._store, RemoteStore) else OPEN_FILES)

    def _path_of(self, shard: int) -> Path:
        return self._store.path(self._entry.shards[shard].file)

    def _take_in(self, shard: ShardEntry, start: int, owners: list[np.ndarray]) -> Iterator[str]:
        try:
            with self._store.opened(shard.file) as opened:
                sizes = {"images": shard.images, "captions": shard.captions}
                faults = list(strange_datasets(opened)) or form_faults(opened, self.manifest.layout, **sizes)[0]
                if not faults:
                    own = array_of(opened, "caption/owner")[:]
                    offsets = array_of(opened, "region/offsets")[:] if "region/offsets" in opened else None
                    faults = list(_index_faults(own, offsets, shard.images, rows_of(opened, "region/features")))
                    owners.append(own.astype(np.int32) + np.int32(start))
                    self._offsets.append(None if offsets is None else offsets.astype(np.int32))
                yield from (f"{shard.file}: {fault}" for fault in faults)
        except FileNotFoundError:
            yield f"{shard.file}: missing; the manifest lists it with {shard.images} images"
        except UNREADABLE as error:
            yield f"{shard.file}: cannot be read ({error})"

    def _texts(self, key: str) -> Texts:
        """All texts of a kind."""
        return Texts(*(self._texts_of(key, shard) for shard in range(len(self._entry.shards))))

    def _texts_of(self, key: str, shard: int) -> list[str]:
        entry = self._entry.shards[shard]
        try:
            with self._store.opened(entry.file) as opened:
                return array_of(opened, key).asstr()[:].tolist() if key in opened else [""] * entry.captions
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            raise self._unreadable(shard, key, error) from error

    def _unreadable(self, shard: int, what: str, error: Exception) -> DataError:
        return DataError(
            f"{self.folder / self._entry.shards[shard].file}: {what} cannot be read ({error}); a shard that was whole "
            f"is gone, cut short or damaged: make verify SHARDS={self.folder} looks through all of them"
        )

    # --- reading

    def _check_fields(self, wanted: Collection[str]) -> None:
        for name in wanted:
            if name not in FIELDS:
                raise DataError(one_of("fields", name, FIELDS))
            if name not in self.manifest.fields:
                there = ", ".join(self.manifest.fields)
                raise DataError(
                    f"{self.folder} holds no {name!r} arrays, only {there}; make data with an extractor that gives them"
                )

    def _runs(self, numbers: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
        """Neighbours in one shard: (shard, first row, end row, position in `numbers`), of sorted distinct numbers."""
        if not len(numbers):
            return
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        breaks = np.flatnonzero((np.diff(numbers) != 1) | (np.diff(shards) != 0)) + 1
        for first, end in pairwise([0, *breaks.tolist(), len(numbers)]):
            shard = int(shards[first])
            row = int(numbers[first] - self._starts[shard])
            yield shard, row, row + end - first, first

    def _read_rows(self, key: str, unique: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Rows of images [len(positions), …], of the sorted numbers `unique` at `positions`."""
        shape, dtype = self._row_types[key]
        rows = np.empty((len(unique), *shape), dtype)
        for shard, first, end, position in self._runs(unique):
            self._read_into(rows[position : position + end - first], shard, key, first, end)
        in_order = len(positions) == len(unique) and (np.diff(positions) > 0).all()
        return rows if in_order else rows[positions]

    def _read_regions(self, unique: np.ndarray, positions: np.ndarray, *, extras: bool) -> dict[str, list[np.ndarray]]:
        layout = self.manifest.layout
        names = ["features", *(("boxes",) if layout.boxes else ())]
        if extras:
            names += [*(("scores",) if layout.boxes else ()), *(("labels",) if layout.labels else ())]
        runs: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for shard, first, end, _ in self._runs(unique):
            low, high = self._region_rows(shard, first, end)
            ends = (self._offsets[shard][first : end + 1] - low).tolist()  # pyright: ignore[reportOptionalSubscript]
            for name in names:
                shape, dtype = self._row_types[f"region/{name}"]
                rows = np.empty((high - low, *shape), dtype)
                self._read_into(rows, shard, f"region/{name}", low, high)
                runs[name] += [rows[start:stop] for start, stop in pairwise(ends)]  # np.split takes longer than a read
        ordered = {name: [arrays[position] for position in positions] for name, arrays in runs.items()}
        return {"regions" if name == "features" else name: arrays for name, arrays in ordered.items()}

    def _keys(self, fields: Collection[str]) -> list[str]:
        """The data sets that a model reads of these fields."""
        boxes = ["region/boxes"] if self.manifest.layout.boxes and "region" in fields else []
        return boxes + [key for field in fields for key in READ_BY_MODELS[field]]

    def _region_rows(self, shard: int, first: int, end: int) -> tuple[int, int]:
        """Rows of the regions of images `first` to `end`."""
        offsets = self._offsets[shard]
        assert offsets is not None
        return int(offsets[first]), int(offsets[end])

    def _read_into(self, out: np.ndarray, shard: int, key: str, first: int, end: int) -> None:
        """Rows `first` to `end` of a data set of one shard."""
        if first == end:
            return
        try:
            direct = self._files.direct(shard, key)
            if direct is not None and direct.dtype == out.dtype:
                direct.read_into(out, self._files.descriptor(shard), first, end)
            else:
                array_of(self._files.handle(shard), key).read_direct(out, np.s_[first:end])
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise self._unreadable(shard, f"{key}, rows {first} to {end - 1},", error) from error


def cell_boxes(height: int, width: int) -> np.ndarray:
    """Boxes of the cells of a grid, row by row: [height * width, 4] float32, xyxy in [0, 1].

    >>> cell_boxes(1, 2).tolist()
    [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]
    """
    row, column = np.divmod(np.arange(height * width), width)
    edges = [column / width, row / height, (column + 1) / width, (row + 1) / height]
    return np.stack(edges, axis=1).astype(np.float32)


def _index_faults(owners: np.ndarray, offsets: np.ndarray | None, images: int, regions: int) -> Iterator[str]:
    """Captions of images that are not there, and regions that cannot be cut where it is said.

    Wrong rows would be read silently as those of another image.
    """
    if len(owners) and not (owners.min() >= 0 and owners.max() < images):
        yield f"caption/owner from {owners.min()} to {owners.max()}; there are images 0 to {images - 1}"
    if offsets is not None and (offsets[0] != 0 or offsets[-1] != regions or (np.diff(offsets) < 0).any()):
        yield f"region/offsets do not rise from 0 to {regions}, the number of regions"
