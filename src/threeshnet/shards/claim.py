"""One process at a time writes a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from threeshnet.errors import DataError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


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
