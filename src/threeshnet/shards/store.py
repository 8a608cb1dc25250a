"""Where the shards of a folder lie: there, or in an object store from which they come when they are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import h5py

from threeshnet.shards.remote import RemoteStore, address_of


class Store(Protocol):
    """What the reader asks of the place where shards lie."""

    def path(self, file: str) -> Path:
        """The shard as a file of this machine."""
        ...

    def opened(self, file: str) -> Any:
        """The shard, open in h5py, for its small data sets."""
        ...


class LocalStore:
    """Shards that lie in their folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, file: str) -> Path:
        return self.folder / file

    @contextmanager
    def opened(self, file: str) -> Iterator[h5py.File]:
        with h5py.File(self.folder / file, "r", locking=False) as shard:  # a finished shard never changes
            yield shard


def store_of(folder: Path, sums: dict[str, str]) -> Store:
    """The store of a shard folder; `sums` are the sha256 that its manifest has of the shards."""
    address = address_of(folder)
    return LocalStore(folder) if address is None else RemoteStore(folder, address, sums)
