"""The rows of an index: an embedding and a line of facts each, in a folder of two files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from threeshnet.errors import IndexFault
from threeshnet.files import NO_HEADER, replacing

EMBEDDINGS, ITEMS = "embeddings.npy", "items.parquet"
ROWS_TOGETHER = 1 << 14  # copied at once
OBJECT = pa.struct(
    {  # one connected area of a class in the segmentation; places and shares in [0, 1] of the photo
        "class": pa.uint8(),
        "share": pa.float32(),
        "x": pa.float32(),  # its centre of mass
        "y": pa.float32(),
        "left": pa.float32(),
        "top": pa.float32(),
        "right": pa.float32(),
        "bottom": pa.float32(),
    }
)
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "file": pa.string(),  # relative to `raw` of the manifest
        "caption": pa.string(),  # null where photos are indexed
        "bytes": pa.int64(),
        "mtime": pa.int64(),  # nanoseconds, of the file
        "taken": pa.int64(),  # seconds, of the EXIF date, else of the file
        "sha256": pa.string(),  # of a sentence, or a photo's bytes; of shards: <the shard's>:<row>:<the photo's>
        "width": pa.int32(),
        "height": pa.int32(),
        "perceptual_hash": pa.uint64(),  # 0 where unknown
        "categories": pa.list_(pa.string()),  # classes of the segmentation that occur
        "objects": pa.list_(OBJECT),
    }
)


class Rows:
    """`embeddings` [n, D] float32, read from the disk as they are used, and `file` with the facts."""

    def __init__(self, folder: Path, items: int | None = None) -> None:
        """Raises IndexFault where the files are missing, damaged, or hold another number of `items`."""
        self.folder, self.file = folder, folder / ITEMS
        try:
            count = pq.read_metadata(self.file).num_rows
        except (OSError, pa.ArrowException) as error:
            raise IndexFault(f"{folder}: rows cannot be read ({error}); make the index again") from error
        self.embeddings = read_array(folder / EMBEDDINGS, mapped=True)
        shape, dtype = self.embeddings.shape, self.embeddings.dtype
        expected = count if items is None else items
        if len(shape) != 2 or dtype != np.float32 or not shape[0] == count == expected:
            counted = f"{EMBEDDINGS} is {list(shape)} {dtype}, {ITEMS} has {count} rows, {expected} are expected"
            raise IndexFault(f"{folder}: {counted}; make the index again")

    def __len__(self) -> int:
        return len(self.embeddings)

    def holds(self, chosen: np.ndarray, table: pa.Table) -> bool:
        """Whether these are the rows already: `chosen` [n] of it, with the facts of `table`."""
        return len(chosen) == len(self) and bool((chosen == np.arange(len(self))).all()) and self.table().equals(table)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The facts, or some of their columns."""
        try:
            return pq.ParquetFile(self.file).read(list(columns) if columns else None)
        except (OSError, pa.ArrowException) as error:
            raise IndexFault(f"{self.file} cannot be read ({error}); make the index again") from error


def read_array(file: Path, *, mapped: bool = False) -> np.ndarray:
    """A `.npy` file of an index; `mapped` ones are read as they are used.  Raises IndexFault."""
    try:
        return np.load(file, mmap_mode="r" if mapped else None)
    except (OSError, EOFError, *NO_HEADER) as error:
        raise IndexFault(f"{file} cannot be read ({error}); make the index again") from error


def table_of(columns: Mapping[str, Any], length: int) -> pa.Table:
    """Facts of `length` items; of what is not given, numbers are 0 and all else is null."""
    arrays = []
    for field in SCHEMA:
        unknown = 0 if pa.types.is_integer(field.type) else None
        arrays.append(pa.array(columns.get(field.name, [unknown] * length), field.type))
    return pa.table(arrays, schema=SCHEMA)


def as_numpy(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Numbers without nulls, [n], read-only.  Unlike pyarrow's `to_numpy`, it does not import pandas."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.from_dlpack(whole)


def write_rows(folder: Path, embeddings: Sequence[np.ndarray], chosen: np.ndarray, table: pa.Table) -> None:
    """Write rows `chosen` [n] of the `embeddings`, each [m, D], that are numbered one after the other.

    The table is written last: rows without one are not finished.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = np.cumsum([0, *map(len, embeddings)])
    with replacing(folder / EMBEDDINGS) as partial, partial.open("wb") as opened:
        shape = (len(chosen), embeddings[0].shape[1])
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(opened, header)
        for first in range(0, len(chosen), ROWS_TOGETHER):
            rows = chosen[first : first + ROWS_TOGETHER]
            block = np.empty((len(rows), shape[1]), np.float32)
            homes = np.searchsorted(starts, rows, side="right") - 1
            for home in np.unique(homes):
                block[homes == home] = embeddings[home][rows[homes == home] - starts[home]]
            opened.write(block.data)
    with replacing(folder / ITEMS) as partial:
        pq.write_table(table, partial, compression="zstd")
