"""Random access to the images and captions of one split, shard files opened lazily in each process."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from threeshnet.errors import DataError, Problems, one_of
from threeshnet.records import ImageArrays
from threeshnet.shards.manifest import MAKE_DATA, Manifest, ShardEntry, SplitEntry, open_shards
from threeshnet.shards.schema import FIELDS, layout_of_file

__all__ = ["ShardedSplit", "open_shards"]

CHUNK_CACHE_BYTES = 0  # chunks are not compressed: without the cache HDF5 reads straight into our arrays


class ShardedSplit:
    """One split of a shard folder. Images and captions are numbered from 0 in the order of the shards.

    Attributes: `name`, `manifest`, `images`, `captions` (counts), `owners` [captions] int32, `caption_texts`,
    `caption_tags`, `image_ids`, `image_files` (lists of str). Raises DataError when files are missing or do not hold
    what the manifest says.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.name = Path(folder), split
        self.manifest = Manifest.load(self.folder)
        if split not in self.manifest.splits:
            raise DataError(f"{self.folder}: {one_of('split', split, self.manifest.splits)}")
        self._entry: SplitEntry = self.manifest.splits[split]
        self.images, self.captions = self._entry.images, self._entry.captions
        counts = [shard.images for shard in self._entry.shards]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._offsets: list[np.ndarray | None] = []
        self._handles: dict[int, h5py.File] = {}
        self._process = os.getpid()
        self.image_ids: list[str] = []
        self.image_files: list[str] = []
        self.caption_texts: list[str] = []
        self.caption_tags: list[str] = []
        owners: list[np.ndarray] = [np.zeros(0, np.int32)]
        problems = Problems(f"{self.folder}, split {split!r}")
        for shard, start in zip(self._entry.shards, self._starts[:-1], strict=True):
            fault = self._take_in(shard, int(start), owners)
            problems.extend(fault)
        problems.raise_as(DataError, f"make the folder again: {MAKE_DATA} (finished shards are kept)")
        self.owners = np.concatenate(owners)

    def read(self, numbers: Sequence[int] | np.ndarray, fields: Collection[str] | None = None) -> ImageArrays:
        """Arrays of these images in this order; numbers may repeat. `fields`: of region, grid, seg; None is all."""
        wanted = self.manifest.fields if fields is None else tuple(fields)
        self._check_fields(wanted)
        asked = np.asarray(numbers, dtype=np.int64)
        if len(asked) and not (asked.min() >= 0 and asked.max() < self.images):
            raise IndexError(f"image {asked.min()} to {asked.max()} of split {self.name!r} with {self.images} images")
        unique, places = np.unique(asked, return_inverse=True)
        parts: dict[str, Any] = {}
        if "region" in wanted:
            parts |= self._read_regions(unique, places)
        if "grid" in wanted:
            parts["grid"] = self._read_rows("grid/features", unique)[places]
            if self.manifest.grid_size is not None:
                cells = cell_boxes(*self.manifest.grid_size)
                parts["grid_boxes"] = np.broadcast_to(cells, (len(asked), *cells.shape))
        if "seg" in wanted:
            for name in ("semantic", "map", "categories"):
                parts[f"seg_{name}"] = self._read_rows(f"seg/{name}", unique)[places]
        return ImageArrays(**parts)

    def sizes(self) -> np.ndarray:
        """Width and height of every photo in pixels, [images, 2] int32; zeros where unknown."""
        return self._read_rows("image/size", np.arange(self.images))

    def image_path(self, number: int) -> Path:
        """Where the photo of an image lay when the shards were made."""
        return Path(self.manifest.raw) / self.image_files[number]

    def home(self, number: int) -> tuple[str, int]:
        """The shard file of an image, and its row there."""
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._entry.shards[shard].file, number - int(self._starts[shard])

    def close(self) -> None:
        """Close the files; reading opens them again."""
        for handle in self._handles.values():
            handle.close()
        self._handles = {}

    def __len__(self) -> int:
        return self.images

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handles": {}}  # an open file cannot cross to another process

    # --- opening

    def _take_in(self, shard: ShardEntry, start: int, owners: list[np.ndarray]) -> Iterator[str]:
        file = self.folder / shard.file
        if not file.is_file():
            yield f"{shard.file}: missing; the manifest lists it with {shard.images} images"
            return
        try:
            with h5py.File(file, "r", locking=False) as opened:  # a finished shard never changes
                if faults := self._mismatches(opened, shard):
                    yield from faults
                    return
                self.image_ids += _texts(opened, "image/id")
                self.image_files += _texts(opened, "image/file")
                self.caption_texts += _texts(opened, "caption/text")
                has_tags = "caption/tag" in opened
                self.caption_tags += _texts(opened, "caption/tag") if has_tags else [""] * shard.captions
                owners.append(_array(opened, "caption/owner").astype(np.int32) + np.int32(start))
                self._offsets.append(_array(opened, "region/offsets") if "region/offsets" in opened else None)
        except (OSError, KeyError, RuntimeError) as error:
            yield f"{shard.file}: cannot be read ({error})"

    def _mismatches(self, opened: h5py.File, shard: ShardEntry) -> list[str]:
        counts = {"image/id": shard.images, "caption/text": shard.captions, "caption/owner": shard.captions}
        counts |= dict.fromkeys(("grid/features", "seg/semantic", "seg/map", "seg/categories"), shard.images)
        counts["region/offsets"] = shard.images + 1
        found = {key: opened[key].shape[0] for key in counts if key in opened}  # pyright: ignore
        wrong = [
            f"{shard.file}: {key} has {count} rows; the manifest says {counts[key]}"
            for key, count in found.items()
            if count != counts[key]
        ]
        different = self.manifest.layout.differences(layout_of_file(opened))
        return wrong + [f"{shard.file}: {line}, as the manifest says" for line in different]

    def _file(self, shard: int) -> h5py.File:
        if self._process != os.getpid():  # after a fork the parent's handles must not be touched
            self._handles, self._process = {}, os.getpid()
        if shard not in self._handles:
            path = self.folder / self._entry.shards[shard].file
            self._handles[shard] = h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES, locking=False)
        return self._handles[shard]

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
        """Neighbours in one shard: (shard, first row, end row, place in `numbers`), of sorted distinct numbers."""
        if not len(numbers):
            return
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        breaks = np.flatnonzero((np.diff(numbers) != 1) | (np.diff(shards) != 0)) + 1
        for first, end in pairwise([0, *breaks.tolist(), len(numbers)]):
            shard = int(shards[first])
            row = int(numbers[first] - self._starts[shard])
            yield shard, row, row + end - first, first

    def _read_rows(self, key: str, numbers: np.ndarray) -> np.ndarray:
        result: np.ndarray | None = None
        for shard, first, end, place in self._runs(numbers):
            dataset: Any = self._file(shard)[key]
            if result is None:
                result = np.empty((len(numbers), *dataset.shape[1:]), dataset.dtype)
            dataset.read_direct(result, np.s_[first:end], np.s_[place : place + end - first])
        if result is None:
            return self._no_rows(key)
        return result

    def _no_rows(self, key: str) -> np.ndarray:
        dataset: Any = self._file(0)[key]
        return np.empty((0, *dataset.shape[1:]), dataset.dtype)

    def _read_regions(self, unique: np.ndarray, places: np.ndarray) -> dict[str, list[np.ndarray]]:
        layout = self.manifest.layout
        names = ["features", *(("boxes", "scores") if layout.boxes else ()), *(("labels",) if layout.labels else ())]
        found: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for shard, first, end, _ in self._runs(unique):
            offsets: Any = self._offsets[shard]
            low, high = int(offsets[first]), int(offsets[end])
            cuts = offsets[first + 1 : end] - low
            for name in names:
                dataset: Any = self._file(shard)[f"region/{name}"]
                rows = np.empty((high - low, *dataset.shape[1:]), dataset.dtype)
                dataset.read_direct(rows, np.s_[low:high])
                found[name] += np.split(rows, cuts)
        ordered = {name: [arrays[place] for place in places] for name, arrays in found.items()}
        return {"regions" if name == "features" else name: arrays for name, arrays in ordered.items()}


def cell_boxes(height: int, width: int) -> np.ndarray:
    """Boxes of the cells of a grid, row by row: [height * width, 4] float32, xyxy in [0, 1].

    >>> cell_boxes(1, 2).tolist()
    [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]
    """
    row, column = np.divmod(np.arange(height * width), width)
    edges = [column / width, row / height, (column + 1) / width, (row + 1) / height]
    return np.stack(edges, axis=1).astype(np.float32)


def _texts(opened: h5py.File, key: str) -> list[str]:
    dataset: Any = opened[key]
    return dataset.asstr()[:].tolist()


def _array(opened: h5py.File, key: str) -> np.ndarray:
    dataset: Any = opened[key]
    return dataset[:]
