"""Shard files that are open in this process, never more than so many at a time."""

from __future__ import annotations

import importlib
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py

from threeshnet.errors import DataError
from threeshnet.shards.direct import DirectRows, direct_rows
from threeshnet.shards.schema import FIELDS, array_of

OPEN_FILES = 64  # a process may have 1,024, and a large data set has more shards than that
OPEN_HANDLES = 8  # h5py keeps a megabyte or so of each
CHUNK_CACHE_BYTES = 0  # chunks are read once: without the cache HDF5 reads or unpacks them straight into our arrays


class ShardFiles:
    """Descriptors and h5py handles of the shards of a split by number, opened on first use in each process.

    `path_of` says where a shard lies. The least recently used are closed.
    """

    def __init__(self, path_of: Callable[[int], Path], *, most: int = OPEN_FILES) -> None:
        self._path_of, self._most = path_of, most
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        self._handles: OrderedDict[int, h5py.File] = OrderedDict()
        self._direct: dict[int, Mapping[str, DirectRows | None]] = {}
        self._process = os.getpid()

    def descriptor(self, shard: int) -> int:
        """An open file descriptor."""
        self._only_here()
        if shard not in self._descriptors:
            _make_room(self._descriptors, self._most, os.close)
            self._descriptors[shard] = os.open(self._path_of(shard), os.O_RDONLY)
        self._descriptors.move_to_end(shard)
        return self._descriptors[shard]

    def handle(self, shard: int) -> h5py.File:
        """An open h5py file."""
        self._only_here()
        if shard not in self._handles:
            _make_room(self._handles, min(self._most, OPEN_HANDLES), h5py.File.close)
            self._handles[shard] = self._opened(shard)
        self._handles.move_to_end(shard)
        return self._handles[shard]

    def direct(self, shard: int, key: str) -> DirectRows | None:
        """Where the rows of a data set lie in its shard, looked up once; None where h5py has to read them."""
        if shard not in self._direct:
            with self._opened(shard) as opened:
                keys = [f"{group}/{name}" for group in FIELDS if group in opened for name in array_of(opened, group)]
                for each in keys:
                    check_filters(opened[each])
                self._direct[shard] = {each: direct_rows(array_of(opened, each)) for each in keys}
        return self._direct[shard].get(key)

    def close(self) -> None:
        """Close the files; they are opened again when they are needed."""
        self._only_here()
        _make_room(self._descriptors, 1, os.close)
        _make_room(self._handles, 1, h5py.File.close)

    def _opened(self, shard: int) -> h5py.File:
        return h5py.File(self._path_of(shard), "r", rdcc_nbytes=CHUNK_CACHE_BYTES, locking=False)

    def _only_here(self) -> None:
        if self._process != os.getpid():  # after a fork the parent's handles must not be touched
            self._descriptors, self._handles, self._process = OrderedDict(), OrderedDict(), os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        # An open file cannot cross to another process; where the rows lie can.
        return self.__dict__ | {"_descriptors": OrderedDict(), "_handles": OrderedDict()}


def _make_room(opened: OrderedDict[int, Any], most: int, close: Callable[[Any], None]) -> None:
    while len(opened) >= most:
        close(opened.popitem(last=False)[1])


def check_filters(dataset: Any) -> None:
    """Raises DataError when an array has a compression that this installation cannot read.

    Earlier versions wrote Blosc, which HDF5 knows as soon as the package hdf5plugin is imported.
    """
    plist, h5z = dataset.id.get_create_plist(), importlib.import_module("h5py.h5z")
    filters = [plist.get_filter(number) for number in range(plist.get_nfilters())]
    if all(h5z.filter_avail(number) for number, *_ in filters):
        return
    with suppress(ImportError):
        importlib.import_module("hdf5plugin")
    absent = [
        f"{name.decode(errors='replace')} ({number})" for number, _, _, name in filters if not h5z.filter_avail(number)
    ]
    if absent:
        raise DataError(
            f"{dataset.file.filename}: {dataset.name} is compressed by {', '.join(absent)}, which needs a package: pip "
            "install hdf5plugin"
        )
