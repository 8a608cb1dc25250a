"""Shards in an object store: small parts are read from there, whole shards come through a cache on this machine.

    shards=s3://bucket/coco     gs://…  az://…  https://…  and whatever else fsspec speaks

A folder of the cache stands for the address: it holds the manifest, and shards as long as there is room. The least
recently used go. THREESHNET_CACHE says where the cache lies, THREESHNET_CACHE_GIGABYTES how large it may grow.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import h5py
from filelock import FileLock

from threeshnet import installation
from threeshnet.errors import ConfigError, DataError
from threeshnet.files import sha256

SOURCE = "source.json"  # beside the manifest: where the shards come from
LOCKS = "locks"  # folder of the locks: one a shard, and one for making room
WHERE, SIZE = "THREESHNET_CACHE", "THREESHNET_CACHE_GIGABYTES"
DEFAULT_GIGABYTES = 100.0
GIGABYTE = 1_000_000_000
MANIFEST = "manifest.json"


def is_remote(source: object) -> bool:
    """Whether shards lie at an address and not in a folder.

    >>> is_remote("s3://bucket/coco"), is_remote("data/shards")
    (True, False)
    """
    return "://" in str(source)


def mirror(address: str) -> Path | None:
    """The folder that stands for the shards at `address`, with their manifest; None when none is there.

    Raises DataError when the address cannot be reached, ConfigError when a package for its protocol is missing.
    """
    address = address.rstrip("/")
    system, path = _system(address)
    try:
        manifest = system.cat_file(f"{path}/{MANIFEST}")
    except FileNotFoundError:
        return None
    except Exception as error:  # each protocol has its own errors
        raise DataError(f"{address}/{MANIFEST} cannot be read: {error}") from error
    # Shards that were made anew have another manifest, and with it another folder.
    name = hashlib.sha256(address.encode() + b"\n" + manifest).hexdigest()[:16]
    folder = cache_folder() / "shards" / name
    (folder / LOCKS).mkdir(parents=True, exist_ok=True)
    for file, content in ((SOURCE, json.dumps({"address": address}).encode()), (MANIFEST, manifest)):
        aside = folder / f"{file}.{os.getpid()}.partial"
        aside.write_bytes(content)
        aside.replace(folder / file)
    return folder


def cache_folder() -> Path:
    """Where the cache lies."""
    return Path(os.environ.get(WHERE) or installation.cache_folder())


def cache_bytes() -> int:
    """How large the shards of the cache may grow together.  Raises ConfigError for what is no number above 0."""
    given = os.environ.get(SIZE, str(DEFAULT_GIGABYTES))
    try:
        size = float(given)
    except ValueError:
        size = 0.0
    if not size > 0:
        raise ConfigError(f"{SIZE}={given!r} must be a number of gigabytes above 0")
    return int(size * GIGABYTE)


def address_of(folder: Path) -> str | None:
    """Where the shards of a folder come from; None for shards that lie there."""
    file = folder / SOURCE
    return json.loads(file.read_text(encoding="utf-8-sig"))["address"] if file.is_file() else None


class Store:
    """Shards that lie in their folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, file: str) -> Path:
        """The shard as a file of this machine."""
        return self.folder / file

    def opened(self, file: str) -> AbstractContextManager[h5py.File]:
        """The shard, open in h5py, for its small arrays."""
        return h5py.File(self.folder / file, "r", locking=False)  # a finished shard never changes


class RemoteStore(Store):
    """Shards of an address, downloaded when they are read and removed when there is no more room."""

    def __init__(self, folder: Path, address: str, sums: dict[str, str]) -> None:
        """`folder` stands for `address`; `sums` are the sha256 of the shards, empty where they are not known."""
        super().__init__(folder)
        self.address, self.sums = address, sums

    def path(self, file: str) -> Path:
        """The shard as a file of this machine, which may be removed while it is open and is read to its end then.

        Raises DataError when it does not come, or comes damaged.
        """
        here = self.folder / file
        with FileLock(self.folder / LOCKS / f"{file}.lock"):
            if not here.is_file():
                self._bring(file, here)
            os.utime(here)  # used now
        return here

    @contextmanager
    def opened(self, file: str) -> Iterator[h5py.File]:
        """The shard, open in h5py; parts are read over the network as long as it is not here."""
        if (self.folder / file).is_file():
            with super().opened(file) as shard:
                yield shard
            return
        system, path = _system(self.address)
        with system.open(f"{path}/{file}", "rb") as stream, h5py.File(stream, "r") as shard:
            yield shard

    def _bring(self, file: str, here: Path) -> None:
        system, path = _system(self.address)
        aside = here.with_name(f"{file}.partial")
        try:
            size = int(system.size(f"{path}/{file}") or 0)
            self._make_room(size, keep=here)
            system.get_file(f"{path}/{file}", str(aside))
        except ConfigError:
            raise
        except Exception as error:  # each protocol has its own errors
            aside.unlink(missing_ok=True)
            raise DataError(f"{self.address}/{file} could not be downloaded: {error}") from error
        expected, actual = self.sums.get(file), sha256(aside)
        if expected and actual != expected:
            aside.unlink()
            raise DataError(
                f"{self.address}/{file} came with sha256 {actual}, the manifest says {expected}: it is damaged there "
                "or was damaged on the way; upload it again"
            )
        aside.replace(here)

    def _make_room(self, size: int, keep: Path) -> None:
        """Remove the least recently used shards of the whole cache until `size` bytes more are allowed."""
        allowed = cache_bytes()
        if size > allowed:
            raise ConfigError(f"{SIZE} allows {allowed:,} bytes, and {keep.name} alone has {size:,}")
        with FileLock(self.folder.parent / "room.lock"):
            cached = []
            for file in self.folder.parent.glob("*/*.h5"):
                try:
                    cached.append((file.stat().st_mtime_ns, file.stat().st_size, file))
                except FileNotFoundError:  # another process has just removed it
                    continue
            total = sum(bytes_there for _, bytes_there, _ in cached)
            for _, bytes_there, file in sorted(cached):
                if total + size <= allowed:
                    return
                file.unlink(missing_ok=True)
                total -= bytes_there


def store_of(folder: Path, sums: dict[str, str]) -> Store:
    """The store of a shard folder; `sums` are the sha256 that its manifest has of the shards."""
    address = address_of(folder)
    return Store(folder) if address is None else RemoteStore(folder, address, sums)


def _system(address: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path in it."""
    try:
        fsspec: Any = importlib.import_module("fsspec.core")
    except ImportError as error:
        raise ConfigError(
            f"{address}: shards in an object store need the package fsspec: pip install fsspec"
        ) from error
    try:
        return fsspec.url_to_fs(address)
    except ImportError as error:  # fsspec says which package speaks the protocol
        raise ConfigError(f"{address}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"shards={address}: {error}") from error
