"""Rows of a `.npy` file without loading it.

A row is read into memory of its own: the pages of a memory map would count against the process until the system takes
them back, and with files larger than memory that looks like a leak.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from threeshnet.errors import DataError
from threeshnet.files import NO_HEADER

HEADERS = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
RESAVE = "np.save(file, np.ascontiguousarray(np.load(file)))"


class NpyRows:
    """A `.npy` array, read along its first axis.  `shape` and `dtype` are the whole array's."""

    def __init__(self, file: Path) -> None:
        """Read the header. Raises DataError for what is not a whole C-ordered array of numbers."""
        self.file = file
        self._stream: io.FileIO | None = None
        with file.open("rb") as stream:
            self.shape, fortran, self.dtype = _header(file, stream)
            self.start = stream.tell()
            size = stream.seek(0, io.SEEK_END)
        if self.dtype.hasobject:
            raise DataError(f"{file}: an array of Python objects (a pickle), which is not opened; save it as numbers")
        if self.dtype.kind not in "fiub":
            raise DataError(f"{file}: numbers of type {self.dtype}; expected floats, integers or truth values")
        if fortran and len(self.shape) > 1:
            raise DataError(f"{file}: in column order (Fortran); save it again in row order: {RESAVE}")
        if any(isinstance(length, bool) or length < 0 for length in self.shape):
            raise DataError(f"{file}: a shape of {self.shape}; copy or download it again")
        self.row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        whole = self.start + (self.shape[0] if self.shape else 1) * self.row_bytes
        if size < whole:
            raise DataError(f"{file}: truncated: {size} of {whole} bytes; copy or download it again")

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def row(self, number: int) -> np.ndarray:
        """One row, in the machine's byte order."""
        return self._read(self.start + number * self.row_bytes, self.shape[1:])

    def whole(self) -> np.ndarray:
        """All of it, for files of one image."""
        values = self._read(self.start, self.shape)
        self.close()
        return values

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _read(self, place: int, shape: tuple[int, ...]) -> np.ndarray:
        if self._stream is None:
            self._stream = io.FileIO(self.file)
        values = np.empty(shape, self.dtype)
        self._stream.seek(place)
        got = self._stream.readinto(values.reshape(-1).view(np.uint8).data)
        if got != values.nbytes:
            raise DataError(f"{self.file}: {got} of {values.nbytes} bytes at {place}; was it changed meanwhile?")
        return values if self.dtype.isnative else values.astype(self.dtype.newbyteorder("="))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_stream": None}  # an open file stays in its process


def _header(file: Path, stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy_format.read_magic(stream)
        if version not in HEADERS:
            raise DataError(f"{file}: .npy of version {version}; expected 1.0 or 2.0; save it again: {RESAVE}")
        return HEADERS[version](stream)
    except NO_HEADER as error:
        raise DataError(f"{file}: not a .npy file ({error}); copy or download it again") from error
