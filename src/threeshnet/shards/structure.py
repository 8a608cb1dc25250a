"""What the datasets of a shard have to be, looked at before anything in them is read or believed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import h5py
import numpy as np

from threeshnet.shards.schema import (
    ARRAYS,
    FEATURES,
    TEXT,
    Layout,
    array_of,
    expected_shapes,
    layout_of_file,
    needed_keys,
)

# What h5py raises on damaged files.
UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError)


def strange_datasets(opened: h5py.File) -> Iterator[str]:
    """Arrays of the table that are no plain datasets that lie in this file, whole.

    A link to another file, a virtual dataset or one with its data in another file would let a shard read what its user
    may read; and a chunked one may declare any size without storing it.
    """
    for key in ARRAYS:
        group, _, name = key.partition("/")
        if not all(_is_own(opened, part) for part in (group, key)):
            yield f"{key} is a link, which is never followed"
            continue
        if group in opened and not isinstance(opened[group], h5py.Group):
            yield f"{group} is no group with {name} in it"
        dataset = opened.get(key)
        if dataset is None:
            continue
        if not isinstance(dataset, h5py.Dataset):
            yield f"{key} is no dataset"
        elif dataset.external or dataset.is_virtual:
            yield f"{key} has its data in another file, which is never read"
        elif dataset.shape is None or not dataset.ndim:
            yield f"{key} has no rows"
        else:
            declared = math.prod(dataset.shape) * dataset.dtype.itemsize  # h5py's own count overflows
            stored = dataset.id.get_storage_size()
            if stored < declared and not dataset.id.get_create_plist().get_nfilters():  # compressed data may be small
                yield f"{key} declares {declared:,} bytes and stores {stored:,}"


def _is_own(opened: h5py.File, key: str) -> bool:
    """Whether a name is no link to elsewhere; names that are not there are none."""
    group, _, name = key.rpartition("/")
    parent = opened.get(group) if group else opened
    link = parent.get(name, getlink=True) if isinstance(parent, h5py.Group) else None
    return not isinstance(link, h5py.SoftLink | h5py.ExternalLink)


def form_faults(opened: h5py.File, layout: Layout, *, images: int, captions: int) -> tuple[list[str], set[str]]:
    """Where the arrays of a shard are not what its manifest says, and the keys of those whose rows have another form.

    None of them is strange.
    """
    missing = [key for key in needed_keys(layout) if key not in opened]
    different = [] if missing else layout.differences(layout_of_file(opened))
    counts: dict[tuple[int, int], list[str]] = {}  # found and expected -> keys, for one line
    misshapen: dict[str, str] = {}
    sizes = {"images": images, "captions": captions, "regions": rows_of(opened, "region/features")}
    for key, (rows, *row) in expected_shapes(layout, **sizes).items():
        if key not in opened:
            continue
        dataset = array_of(opened, key)
        if len(dataset) != rows:
            counts.setdefault((len(dataset), rows), []).append(key)
        if dataset.shape[1:] != tuple(row):
            misshapen[key] = f"{key} has rows of shape {dataset.shape[1:]}; expected {tuple(row)}"
        elif not _may_hold(ARRAYS[key].dtype, dataset.dtype):
            misshapen[key] = f"{key} is of type {dataset.dtype}, which cannot be"
    different += [f"{', '.join(keys)}: {rows_here} rows; expected {rows}" for (rows_here, rows), keys in counts.items()]
    faults = [f"no {', '.join(missing)}"] if missing else []
    faults += [f"{line}, as the manifest says" for line in different]
    return [*faults, *misshapen.values()], set(misshapen)


def _may_hold(expected: str, actual: np.dtype) -> bool:
    if expected == TEXT:
        return h5py.check_string_dtype(actual) is not None and actual.kind == "O"
    return actual.kind == ("f" if expected == FEATURES else np.dtype(expected).kind)


def rows_of(opened: h5py.File, key: str) -> int:
    """Rows of a dataset, 0 when there is no such dataset."""
    return len(array_of(opened, key)) if key in opened else 0
