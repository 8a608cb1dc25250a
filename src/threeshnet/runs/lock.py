"""One process at a time works in a run directory."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from threeshnet.errors import ConfigError
from threeshnet.files import cannot_write
from threeshnet.processes import SHARED_OUT
from threeshnet.runs.rank import process_rank

LOCK, OWNER = ".lock", ".lock.owner"
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)  # errors of file systems without flock, beside ENOSYS


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock.  Raises ConfigError when another process holds it.

    The system frees the lock of a dead process. On a file system without locks, a file names the owner instead; it is
    taken over when that process of this machine has ended. Processes of other machines cannot be checked, so their
    file stays.
    """
    if process_rank() != 0:
        yield
        return
    try:
        lock = _acquire(folder)
    except OSError as error:
        raise cannot_write("out", folder, error) from error
    os.environ[SHARED_OUT] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(SHARED_OUT, None)
        (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a process works in the folder."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def _acquire(folder: Path) -> BaseFileLock:
    folder.mkdir(parents=True, exist_ok=True)
    lock: BaseFileLock = FileLock(folder / LOCK, timeout=0)
    owner = folder / OWNER
    try:
        try:
            lock.acquire()
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            lock = SoftFileLock(folder / f"{LOCK}.soft", timeout=0)
            lock.acquire()
    except Timeout as taken:
        holder = owner.read_text(encoding="utf-8").strip() if owner.is_file() else "another process"
        raise ConfigError(f"out={folder}: {holder} is working there; wait for it or give another OUT") from taken
    owner.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
    return lock
