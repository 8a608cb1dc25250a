"""Reading the arrays of one image out of HDF5 files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from threeshnet.errors import DataError
from threeshnet.features.published.layout import RowReader

Key = tuple[int, Any]  # number of the file; what finds the image in it
# What h5py raises for damaged files, by the place of the damage.
DAMAGED = (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError)


class Hdf5Rows(RowReader):
    """Reads one image. Files are opened when first needed, in each process by itself.

    turned: regions are columns. channels: "last" for grids [H, W, C].
    """

    def __init__(
        self, files: tuple[Path, ...], names: Mapping[str, str], *, turned: bool = False, channels: str = "first"
    ) -> None:
        self.files, self.names, self.turned, self.channels = files, dict(names), turned, channels
        self._open: dict[int, h5py.File] = {}

    def read(self, key: Key) -> dict[str, np.ndarray]:
        try:
            return self._read(*key)
        except DAMAGED as error:
            raise DataError(f"cannot be read ({error})") from error

    def _read(self, number: int, location: Any) -> dict[str, np.ndarray]:
        if number not in self._open:
            self._open[number] = h5py.File(self.files[number], "r", locking=False)
        file: Any = self._open[number]
        if isinstance(location, dict):  # paths of the arrays of one image
            read = {name: file[path][()] for name, path in location.items()}
        elif isinstance(location, slice):
            read = {ours: file[theirs][location] for ours, theirs in self.names.items()}
        else:
            row, count = location
            read = {ours: self._turned(ours, file[theirs][row])[:count] for ours, theirs in self.names.items()}
        if isinstance(location, dict) and "regions" in read:
            read["regions"] = self._turned("features", read["regions"])
        if "features" in read:
            values = read.pop("features")
            if values.ndim == 3:
                values = values.transpose(2, 0, 1) if self.channels == "last" else values
                return {"grid": np.ascontiguousarray(values.reshape(len(values), -1).T)}
            read["regions"] = values
        if "scores" in read and read["scores"].ndim == 2:
            read["scores"] = read["scores"][:, 1:].max(axis=1)  # class probabilities; the first is the background's
        if "boxes" in read:
            read["boxes"] = read["boxes"][:, :4]
        return read

    def _turned(self, name: str, values: np.ndarray) -> np.ndarray:
        """Regions as rows."""
        return np.ascontiguousarray(values.T) if self.turned and name == "features" and values.ndim == 2 else values

    def where(self, key: Key) -> str:
        number, location = key
        inside = next(iter(location.values())) if isinstance(location, dict) else f"row {location}"
        return f"{self.files[number].name} {inside}"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # an open file stays in its process
