"""Checkpoint files: complete or absent, with the previous one kept, and damage detected."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from threeshnet.errors import CheckpointError
from threeshnet.files import NO_ROOM, PARTIAL, read_tensors
from threeshnet.runs.run import LAST, PREVIOUS, Run

log = logging.getLogger(__name__)


def write_checkpoint(content: Mapping[str, Any], file: Path) -> None:
    """Write a checkpoint completely, or leave everything as it was.  Raises OSError, also for a full disk.

    The file survives a loss of power: it is flushed before it is renamed, and the folder after. The last checkpoint
    but one is kept as PREVIOUS.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + PARTIAL)
    try:
        with partial.open("wb") as stream:
            _save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        if file.name == LAST and file.exists():
            _keep(file, file.with_name(PREVIOUS))
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _flush_folder(file.parent)


def fault_of(file: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint; None for an intact file.

    A checkpoint is a zip archive with its directory at the end, which a cut file lacks. Each record has a checksum,
    which torch writes and does not check.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
        if broken:
            return f"the bytes of {broken} are not those that were written"
        read_tensors(file, device="meta")  # reads no weights: torch looks at other fields too
    except Exception as reason:  # whatever a random byte leads to
        return f"it is cut short or no checkpoint ({reason})"
    return None


def newest_whole(run: Run) -> Path | None:
    """The last checkpoint, or the one before when that is torn; None where there is none.  Raises CheckpointError."""
    torn = []
    for file in (run.last, run.previous):
        if not file.exists():
            continue
        fault = fault_of(file)
        if fault is None:
            if torn:
                log.warning("%s; going on from %s, the one before", "; ".join(torn), file.name)
            return file
        torn.append(f"{file} is torn: {fault}")
    if torn:
        raise CheckpointError(
            f"{'; '.join(torn)}. No checkpoint of this run can be read: remove {run.checkpoints} to start afresh"
        )
    return None


def size_of(content: Any) -> int:
    """Bytes of the tensors in `content`, those that share memory counted once."""
    storages: dict[int, int] = {}

    def count(tensor: Tensor) -> None:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()

    apply_to_collection(content, Tensor, count)
    return sum(storages.values())


def explained(error: OSError, file: Path, needed: int) -> str:
    """Why `file`, of about `needed` bytes, could not be written, and the way out."""
    text = f"{file} cannot be written: {error.strerror or error}"
    if error.errno in NO_ROOM:
        free = shutil.disk_usage(file.parent).free
        of = f"it needs {in_units(needed)}, {in_units(free)} are free"
        return f"{text} ({of}). Make room there, or give another OUT"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{text}. Make {file.parent} writable, or give another OUT"
    return text


def in_units(count: int) -> str:
    """A number of bytes in MB or GB.

    >>> in_units(3_200_000), in_units(1_900_000_000)
    ('3.2 MB', '1.90 GB')
    """
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _save(content: Mapping[str, Any], stream: Any) -> None:
    """torch.save that raises the OSError behind a failed write, in place of the archive's RuntimeError."""
    try:
        torch.save(content, stream)
    except RuntimeError as error:
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, OSError):
            reason = reason.__cause__ or reason.__context__
        if reason is None:
            raise
        raise reason from error


def _keep(file: Path, under: Path) -> None:
    """Link `file` under another name too, so that a complete one exists at every moment."""
    link = under.with_name(under.name + PARTIAL)
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(file)
    except OSError:  # no links: for a moment there is only the previous one
        file.replace(under)
        return
    link.replace(under)


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
