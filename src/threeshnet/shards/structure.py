"""What the datasets of a shard have to be, looked at before anything in them is read or believed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

import h5py
import numpy as np

from threeshnet.shards.schema import ARRAYS, FEATURES, TEXT, Layout, expected_shapes, layout_of_file, needed_keys

# What h5py raises on damaged files.
UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError)


def strange_datasets(opened: h5py.File, keys: Collection[str]) -> list[str]:
    """What under these names is no plain dataset that lies in this file, whole.

    A link to another file, a virtual dataset or one with its data in another file would let a shard read what its user
    may read; and a chunked one may declare any size without storing it.
    """
    faults = []
    for key in keys:
        group, _, name = key.partition("/")
        if not all(is_own(opened, part) for part in (group, key)):
            faults.append(f"{key} is a link, which is never followed")
            continue
        if group in opened and not isinstance(opened[group], h5py.Group):
            faults.append(f"{group} is no group with {name} in it")
        found = opened.get(key)
        if found is None:
            continue
        if not isinstance(found, h5py.Dataset):
            faults.append(f"{key} is no dataset")
        elif found.external or found.is_virtual:
            faults.append(f"{key} has its data in another file, which is never read")
        elif found.shape is None or not found.ndim:
            faults.append(f"{key} has no rows")
        elif not _is_stored(found):
            faults.append(f"{key} declares {_bytes(found):,} bytes and stores {found.id.get_storage_size():,}")
    return faults


def kind_of(dtype: str) -> str:
    """NumPy's letter for a type of the table."""
    return {TEXT: "O", FEATURES: "f"}.get(dtype) or np.dtype(dtype).kind


def is_own(opened: h5py.File, key: str) -> bool:
    """Whether a name is no link to elsewhere; names that are not there are none."""
    group, _, name = key.rpartition("/")
    parent = opened.get(group) if group else opened
    link = parent.get(name, getlink=True) if isinstance(parent, h5py.Group) else None
    return not isinstance(link, h5py.SoftLink | h5py.ExternalLink)


def _is_stored(dataset: h5py.Dataset) -> bool:
    """Compressed data may be of any size."""
    return bool(dataset.id.get_create_plist().get_nfilters()) or dataset.id.get_storage_size() >= _bytes(dataset)


def _bytes(dataset: h5py.Dataset) -> int:
    """Of the whole; h5py's own count overflows."""
    return math.prod(dataset.shape) * dataset.dtype.itemsize


def mismatches(opened: h5py.File, layout: Layout, *, images: int, captions: int) -> list[str]:
    """Why a shard is not what its manifest says, as far as shows without its features."""
    if faults := strange_datasets(opened, ARRAYS):
        return faults
    counts = {"images": images, "captions": captions, "regions": rows_of(opened, "region/features")}
    shapes = expected_shapes(layout, **counts)
    faults = [f"no {key}" for key in needed_keys(layout) if key not in opened]
    different = [*count_faults(opened, shapes), *layout.differences(layout_of_file(opened))]
    faults += [f"{line}, as the manifest says" for line in different]
    faults += dict(misshapen_datasets(opened, shapes)).values()
    return faults or list(index_faults(opened, images))


def rows_of(opened: h5py.File, key: str) -> int:
    """Rows of a dataset, 0 when there is no such dataset."""
    return len(opened[key]) if key in opened else 0  # pyright: ignore[reportArgumentType]


def count_faults(opened: h5py.File, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Datasets with more or fewer rows than they should have, those with the same numbers in one line."""
    wrong: dict[tuple[int, int], list[str]] = {}
    for key, expected in shapes.items():
        found = rows_of(opened, key)
        if key in opened and found != expected[0]:
            wrong.setdefault((found, expected[0]), []).append(key)
    for (found, expected), keys in wrong.items():
        yield f"{', '.join(keys)}: {found} rows; expected {expected}"


def misshapen_datasets(opened: h5py.File, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, str]]:
    """Datasets whose rows have another shape or type than they should, each with its message."""
    for key, expected in shapes.items():
        if key not in opened:
            continue
        found, kind = opened[key].shape[1:], opened[key].dtype.kind  # pyright: ignore
        if found != expected[1:]:
            yield key, f"{key} has rows of shape {found}; expected {expected[1:]}"
        elif kind != kind_of(ARRAYS[key].dtype) or (kind == "O" and h5py.check_string_dtype(opened[key].dtype) is None):  # pyright: ignore
            yield key, f"{key} is of type {opened[key].dtype}, which cannot be"  # pyright: ignore


def index_faults(opened: h5py.File, images: int) -> Iterator[str]:
    """Captions of images that are not there, and regions that cannot be cut where it is said.

    `opened` has passed the other checks. Wrong rows would be read silently as those of another image.
    """
    if "caption/owner" in opened:
        owners = np.asarray(opened["caption/owner"])
        if len(owners) and not (owners.min() >= 0 and owners.max() < images):
            yield f"caption/owner from {owners.min()} to {owners.max()}; there are images 0 to {images - 1}"
    if "region/offsets" in opened:
        offsets, regions = np.asarray(opened["region/offsets"]), rows_of(opened, "region/features")
        if offsets[0] != 0 or offsets[-1] != regions or (np.diff(offsets) < 0).any():
            yield f"region/offsets do not rise from 0 to {regions}, the number of regions"
