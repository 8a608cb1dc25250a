"""Files that are written aside and renamed, so that each is whole or absent; one hash, and one reader of tensors."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shutil
import tempfile
import tokenize
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from threeshnet.errors import ConfigError

PARTIAL = ".partial"  # after the name of a file that is being written
HASHED_BYTES = 1 << 22  # read together
PROBE_BYTES = 1 << 12  # a block of most file systems
# What NumPy raises for a damaged header: beside its own, what it lets through of the parser.
NO_HEADER = (ValueError, TypeError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError, OverflowError)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # of file systems without fallocate


def sha256(*files: Path, advance: Callable[[int], object] = lambda _: None) -> str:
    """Hex digest of the bytes of a file, or of several files one after the other.

    `advance` is called with the number of bytes after each read.
    """
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while part := stream.read(HASHED_BYTES):
                digest.update(part)
                advance(len(part))
    return digest.hexdigest()


def read_tensors(file: Path, device: str = "cpu") -> Any:
    """What torch saved, plain values alone: nothing in the file is run.  Raises whatever torch does.

    torch warns of pickles of other protocols than its own, which it then reads, or refuses with a reason.
    """
    import torch  # most commands that write files need none

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")
        return torch.load(file, map_location=device, weights_only=True)


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A file to write instead of `file`, which it becomes when the block ends; an exception leaves both as they are."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + PARTIAL)
    try:
        yield partial
        partial.replace(file)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()  # half a file takes the room that is missing
        error.filename = error.filename or str(file)  # writing to an open file names none
        raise


def check_writable(key: str, folder: str | Path) -> None:
    """Raises ConfigError where no file could be written to a folder, which may not exist yet; called before the work.

    A block is written to the nearest folder that exists, without a name there. `key` is the setting with the folder.
    """
    try:
        there = next(each for each in (Path(folder).absolute(), *Path(folder).absolute().parents) if each.exists())
        with tempfile.TemporaryFile(dir=there, buffering=0) as probe:
            probe.write(bytes(PROBE_BYTES))
            os.fsync(probe.fileno())
    except OSError as error:
        raise cannot_write(key, folder, error) from error


def cannot_write(key: str, folder: str | Path, error: OSError) -> ConfigError:
    """The error for a folder that cannot be written to."""
    other = "another OUT (out=<folder>)" if key == "out" else f"another one ({key}=<folder>)"
    return ConfigError(f"{key}={folder} cannot be written: {error.strerror}; give {other}")


def reserve(handle: IO[bytes], file: Path, count: int) -> None:
    """Raises OSError where `count` bytes more have no room in an open file: on its disk, or in a quota or limit."""
    if not hasattr(os, "posix_fallocate"):
        return
    size = os.fstat(handle.fileno()).st_size
    try:
        os.posix_fallocate(handle.fileno(), size, count)
    except OSError as error:
        if error.errno not in CANNOT_RESERVE:
            raise OSError(error.errno, error.strerror, str(file)) from error
    finally:
        os.ftruncate(handle.fileno(), size)


def free_bytes(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, or of the nearest one above that exists."""
    return shutil.disk_usage(next(each for each in (folder, *folder.absolute().parents) if each.exists())).free


def write_text(file: Path, text: str, *, errors: str = "strict") -> None:
    """A text in UTF-8; `errors` as in `str.encode`."""
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8", errors=errors)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """JSON that a person can read."""
    write_text(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, none where there is no file."""
    if not file.is_file():
        return []
    with file.open(encoding="utf-8-sig", newline="") as opened:
        return list(csv.DictReader(opened))


def write_rows(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A CSV file; what a row lacks is empty there. Raises ValueError for what has no column."""
    with replacing(file) as partial, partial.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
