"""Writing one shard: batch by batch into a file aside, renamed when it is whole.

Nothing in the file depends on time or place: the same photos through the same extractor in the same batches give the
same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import h5py
import numpy as np

from threeshnet.errors import ConfigError, DataError, one_of
from threeshnet.features.fingerprints import Fingerprints
from threeshnet.files import reserve
from threeshnet.records import ImageArrays, Photo
from threeshnet.shards.row_checks import array_faults
from threeshnet.shards.schema import (
    ARRAYS,
    FEATURES,
    FINGERPRINT_KEYS,
    FORMAT,
    REGIONS,
    TEXT,
    Layout,
    array_of,
    arrays_by_key,
    layout_of_arrays,
)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

GZIP: Mapping[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
STRINGS = h5py.string_dtype("utf-8")
SMALL_CHUNK_BYTES = 1 << 16
# HDF5's C library crashes the process when a write fails, so room is reserved before: for the rows, and for all that
# HDF5 adds or still holds in memory (its tables and the chunks that rows only begin).
SLACK_BYTES = 4 << 20
LEFT_OUT = "left_out"
FINGERPRINT, MASKS = "fingerprint", "masks"


class ShardWriter:
    """Fills one shard file; a context manager that leaves a finished file or none.

    `append` takes any number of images at a time, so memory is bounded by a batch. `left_out` lists the photos that
    have no row, each with its reason. What a killed process left aside is written over; DataError when another
    process is writing there.
    """

    def __init__(
        self,
        path: Path,
        *,
        raw: Path | None = None,
        grid_size: tuple[int, int] | None = None,
        fingerprint: str = "",
        masks: str = "",
        compression: str | None = None,
    ) -> None:
        """`masks`: hash of the photos' masks. `compression` of the features and the segmentation: gzip or None."""
        self.path, self.raw, self.grid_size = Path(path), raw, grid_size
        self.filters = filter_options(compression)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.layout: Layout | None = None
        self.images, self.captions, self.regions = 0, 0, 0
        self.left_out: list[str] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._claim = claim(self.partial)
        self._file = h5py.File(self.partial, "w", libver="earliest", locking=False)  # ours is held already
        self._file.attrs["format"] = FORMAT
        self._file.attrs[FINGERPRINT] = fingerprint
        if masks:
            self._file.attrs[MASKS] = masks

    def append(
        self,
        photos: Sequence[Photo],
        arrays: ImageArrays,
        sizes: Sequence[tuple[int, int]],
        fingerprints: Fingerprints | None = None,
    ) -> None:
        """Add images: their photos, arrays and (width, height) in pixels, and what the photos are recognised by.

        Raises DataError when the arrays do not fit.
        """
        if not photos:
            return
        self.layout = self.layout or layout_of_arrays(arrays, self.grid_size)
        array_faults(arrays, self.layout, [photo.id for photo in photos]).raise_as(
            DataError,
            f"nothing was written to {self.path}; the extractor (or the import) has to be put right (float16 ends at "
            "65504)",
        )
        reserve(self._claim, self.partial, bytes_of(arrays) + SLACK_BYTES)
        self._append_photos(photos, sizes)
        for key, values in zip(FINGERPRINT_KEYS, fingerprints or (), strict=False):  # none where no photo was decoded
            self._extend(key, values)
        if arrays.regions is not None:
            ends = self.regions + np.cumsum([len(regions) for regions in arrays.regions], dtype=np.int64)
            self._extend("region/offsets", ends if self.images else np.concatenate([[0], ends]))
            self.regions = int(ends[-1])
        for array, values in arrays_by_key(arrays):
            self._extend(array.key, np.concatenate(values) if array.rows == REGIONS else values)
        self.images += len(photos)

    def _append_photos(self, photos: Sequence[Photo], sizes: Sequence[tuple[int, int]]) -> None:
        for photo in photos:
            if not all(caption.strip() for caption in photo.captions):
                raise DataError(f"image {photo.id!r}: an empty caption; the reader has to leave it out and say so")
        owners = [self.images + row for row, photo in enumerate(photos) for _ in photo.captions]
        self._extend("image/id", _texts(photo.id for photo in photos))
        self._extend("image/file", _texts(inside(photo.file, self.raw) for photo in photos))
        self._extend("image/size", np.array(sizes).reshape(-1, 2))
        self._extend("caption/text", _texts(text for photo in photos for text in photo.captions))
        self._extend("caption/owner", np.array(owners))
        tags = [tag for photo in photos for tag in (photo.tags or [""] * len(photo.captions))]
        self._extend("caption/tag", _texts(tags))
        self.captions += len(owners)

    def _extend(self, key: str, values: np.ndarray) -> None:
        """Append rows to an array of the table, which is created with its first rows."""
        array = ARRAYS[key]
        text = array.dtype == TEXT
        values = values if text or array.dtype == FEATURES else values.astype(array.dtype, copy=False)
        if key not in self._file:
            row_bytes = 16 if text else values.dtype.itemsize * int(np.prod(values.shape[1:]))
            rows = array.chunk or max(1, SMALL_CHUNK_BYTES // row_bytes)
            self._file.create_dataset(
                key,
                shape=(0, *values.shape[1:]),
                maxshape=(None, *values.shape[1:]),
                chunks=(rows, *values.shape[1:]),
                dtype=STRINGS if text else values.dtype,
                track_times=False,
                **(self.filters if array.chunk else {}),  # the large ones; the rest is not worth it
            )
            if key == "grid/features":
                self._file[key].attrs.update(zip("HW", self.grid_size or (), strict=False))
        dataset = array_of(self._file, key)
        start = len(dataset)
        dataset.resize(start + len(values), axis=0)
        dataset[start:] = values

    def close(self) -> None:
        """Finish the file and give it its name."""
        reserve(self._claim, self.partial, SLACK_BYTES)
        self._file.attrs["images"], self._file.attrs["captions"] = self.images, self.captions
        if self.left_out:
            # A dataset, not an attribute: attributes end at 64 kB.
            self._file.create_dataset(LEFT_OUT, data=json.dumps(self.left_out, ensure_ascii=False), dtype=STRINGS)
        self._file.close()
        self.partial.replace(self.path)
        self._claim.close()

    def abandon(self) -> None:
        """Remove what was written aside."""
        self._file.close()
        self.partial.unlink(missing_ok=True)
        self._claim.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind:
            self.abandon()
            return
        try:
            self.close()
        except OSError:
            self.abandon()
            raise


def bytes_of(arrays: ImageArrays) -> int:
    """Bytes of all arrays, those of regions image by image."""
    several = (values if isinstance(values, list | tuple) else [values] for values in arrays)
    return sum(each.nbytes for values in several for each in values if isinstance(each, np.ndarray))


def inside(file: Path, raw: Path | None) -> str:
    """A file as shards name it: relative to the folder `raw` where it lies there."""
    return str(file.relative_to(raw) if raw and file.is_relative_to(raw) else file)


def _texts(values: Iterable[str]) -> np.ndarray:
    """[n] objects that HDF5 can store as UTF-8: bytes that are no text, and zeros, which it refuses, are escaped."""
    kept = (value.encode("utf-8", "backslashreplace").decode("utf-8") for value in values)
    return np.array([value.replace("\0", "\\x00") for value in kept], object)


def filter_options(name: str | None) -> Mapping[str, Any]:
    """What `create_dataset` takes for a compression: nothing for None.  Raises ConfigError for an unknown name."""
    if name not in (None, "gzip"):
        raise ConfigError(one_of("compression", name, ("gzip", "null")))
    return GZIP if name else {}


def claim(file: Path) -> IO[bytes]:
    """Open `file`, made where it is missing, and hold it until it is closed or this process ends, however it ends.

    Raises DataError when another process holds it. HDF5's own lock comes too late: it cuts a file to nothing before it
    finds that another process is writing there. A file system without locks is taken as it is.
    """
    while True:
        handle = file.open("ab")
        try:
            if fcntl:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.close()
            raise DataError(
                f"{file}: another process is writing it; wait until it has ended, or give each process a part of its "
                "own (part=0 of=2, part=1 of=2)"
            ) from error
        except OSError:  # this file system has no locks
            return handle
        if _is_still(file, handle):
            return handle
        handle.close()  # finished by another process between opening and locking, and renamed


def _is_still(file: Path, handle: IO[bytes]) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False
