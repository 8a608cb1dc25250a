"""Rows of an HDF5 data set without HDF5: where they lie in the file, and reading them from there.

An uncompressed array is chunks of rows at offsets that HDF5 reports. Reading them with `preadv` takes a fifth of the
processor time of h5py (experiments/benchmarks/streaming), and other threads of the process run meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import h5py
import numpy as np

HINT_BYTES = 128 << 10  # Linux cuts a longer hint to its read-ahead window, which is 128 KiB where nobody changed it
GAP_BYTES = 16 << 10  # what HDF5 keeps between chunks is read along: one read of more is cheaper than two
MOST_BYTES = 1 << 30  # of one call: Linux reads at most 2 GiB less a page at a time


@dataclass(frozen=True)
class DirectRows:
    """Where the rows of a data set lie: equal chunks of rows, each in one piece."""

    dtype: np.dtype
    row_shape: tuple[int, ...]
    rows: int
    chunk_rows: int
    chunk_starts: np.ndarray  # [chunks] int64, bytes from the start of the file

    @cached_property  # needed for every image
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.row_shape, dtype=np.int64))

    def pieces(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """(first byte, bytes) of rows `first` to `end`, in order; what lies together is one piece."""
        start = stop = 0
        for chunk in range(first // self.chunk_rows, -(-end // self.chunk_rows)):
            origin = chunk * self.chunk_rows
            low, high = max(first, origin) - origin, min(end, origin + self.chunk_rows) - origin
            begins = int(self.chunk_starts[chunk]) + low * self.row_bytes
            if begins != stop:
                if stop > start:
                    yield start, stop - start
                start = begins
            stop = begins + (high - low) * self.row_bytes
        if stop > start:
            yield start, stop - start

    def read_into(self, out: np.ndarray, descriptor: int, first: int, end: int) -> None:
        """Rows `first` to `end` into `out` [end - first, …], contiguous and of this type.

        Raises OSError when the file ends before them, or the disk does not give them.
        """
        target = memoryview(out.view(np.uint8).reshape(-1).data)
        done = 0
        for start, size in self.pieces(first, end):
            _read_piece(descriptor, target[done : done + size], start)
            done += size


def announce(descriptor: int, pieces: Iterable[tuple[int, int]]) -> int:
    """Let the system fetch (first byte, bytes) of a file into its cache and go on; returns the bytes.

    What lies almost together is fetched in one go. Does nothing where the system takes no such hints.
    """
    if not hasattr(os, "posix_fadvise"):
        return 0
    announced = 0
    for start, end in joined(pieces):
        for begin in range(start, end, HINT_BYTES):
            size = min(HINT_BYTES, end - begin)
            os.posix_fadvise(descriptor, begin, size, os.POSIX_FADV_WILLNEED)
            announced += size
    return announced


def joined(pieces: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(first byte, end) of pieces (first byte, bytes) in the order of the file, over small gaps.

    >>> list(joined([(0, 10), (10, 5), (1_000_000, 5), (20, 4)]))
    [(0, 24), (1000000, 1000005)]
    """
    begin = end = -1
    for start, size in sorted(pieces):
        if end < 0 or start - end > GAP_BYTES:
            if end >= 0:
                yield begin, end
            begin = start
        end = start + size
    if end >= 0:
        yield begin, end


def direct_rows(dataset: h5py.Dataset) -> DirectRows | None:
    """Where the rows of an open data set lie; None where they cannot be read as they are (compressed, or absent)."""
    identifier: Any = dataset.id
    plist = identifier.get_create_plist()
    plain = dataset.dtype.kind in "iuf" and dataset.dtype.isnative and not plist.get_nfilters()
    if not plain or not dataset.ndim or dataset.file.userblock_size or dataset.is_virtual:
        return None
    facts: Any = {"dtype": dataset.dtype, "row_shape": tuple(dataset.shape[1:]), "rows": int(dataset.shape[0])}
    if dataset.chunks is None:
        start = identifier.get_offset()
        if start is None or plist.get_external_count():
            return None
        return DirectRows(**facts, chunk_rows=max(facts["rows"], 1), chunk_starts=np.array([start], dtype=np.int64))
    chunk_rows = int(dataset.chunks[0])
    if tuple(dataset.chunks[1:]) != facts["row_shape"]:
        return None
    starts = np.full(-(-facts["rows"] // chunk_rows), -1, dtype=np.int64)
    identifier.chunk_iter(lambda info: starts.__setitem__(info.chunk_offset[0] // chunk_rows, info.byte_offset))
    return None if (starts < 0).any() else DirectRows(**facts, chunk_rows=chunk_rows, chunk_starts=starts)


def _read_piece(descriptor: int, target: memoryview, start: int) -> None:
    done = 0
    while done < len(target):
        count = os.preadv(descriptor, [target[done : done + MOST_BYTES]], start + done)
        if not count:
            raise OSError(f"the file ends before byte {start + len(target):,}: it was cut short")
        done += count
