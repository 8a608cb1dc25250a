"""The statistics of a data card, computed shard by shard so that memory stays small."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from threeshnet.records import VOID
from threeshnet.shards.manifest import Manifest
from threeshnet.shards.reader import ShardedSplit
from threeshnet.shards.row_checks import chunks

SAMPLED = 500  # images, spread evenly over a folder, whose feature vectors are measured
TOGETHER = 50  # of them in memory
COUNTED = ("captions_an_image", "words", "sizes", "regions_an_image", "scores")
TEXTS = "texts and HDF5's own pages"


class StoredArray(NamedTuple):
    """A dataset over all shards of a folder."""

    key: str
    dtype: str
    row: str  # shape of a row
    rows: int
    bytes: int  # that it takes on disk


@dataclass
class Numbers:
    """The numbers behind a card's histograms and tables; arrays are empty where the shards lack the field."""

    captions_an_image: np.ndarray  # [images]
    words: np.ndarray  # [captions]
    sizes: np.ndarray  # [photos of known size, 2] width, height in pixels
    regions_an_image: np.ndarray  # [images]
    scores: np.ndarray  # [regions]
    class_cells: np.ndarray  # [C + 1] cells of all maps; the last is void
    class_images: np.ndarray  # [C] images in which a class occurs
    norms: dict[str, np.ndarray]  # field -> length of each vector of a sample of images
    stored: list[StoredArray]
    bytes: int  # of all shards on disk


def gather(folder: Path, manifest: Manifest) -> Numbers:
    """Count and measure a folder."""
    numbers: dict[str, list[np.ndarray]] = {name: [] for name in COUNTED}
    stored, size = stored_arrays(folder, manifest)
    on_disk: dict[str, Any] = {"stored": stored, "bytes": size}
    classes = manifest.classes or 0
    cells, images = np.zeros(classes + 1, np.int64), np.zeros(classes, np.int64)
    for opened in shards_of(folder, manifest):
        for name, values in _counts(opened).items():
            numbers[name].append(values)
        if "seg" in manifest.fields:
            _count_classes(opened, cells, images)
    counted = {name: np.concatenate(stored or [np.zeros(0, np.int64)]) for name, stored in numbers.items()}
    counted["sizes"] = counted["sizes"].reshape(-1, 2)
    return Numbers(**counted, class_cells=cells, class_images=images, norms=feature_norms(folder, manifest), **on_disk)


def shards_of(folder: Path, manifest: Manifest) -> Iterator[h5py.File]:
    """The shards of all splits, opened one at a time."""
    for shard in (shard for split in manifest.splits.values() for shard in split.shards):
        with h5py.File(Path(folder) / shard.file, "r", locking=False) as opened:
            yield opened


def feature_norms(folder: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """Euclidean length of the vectors of SAMPLED images at most, spread evenly over the splits."""
    norms: dict[str, list[np.ndarray]] = {name: [] for name in ("region", "grid") if name in manifest.fields}
    total = sum(split.images for split in manifest.splits.values())
    for name, entry in manifest.splits.items():
        split = ShardedSplit(folder, name)
        count = min(entry.images, max(1, round(SAMPLED * entry.images / max(1, total))))
        sample = np.linspace(0, entry.images - 1, count, dtype=np.int64) if entry.images else np.zeros(0, np.int64)
        for start in range(0, len(sample), TOGETHER):
            arrays = split.read(sample[start : start + TOGETHER], fields=list(norms))
            if arrays.regions is not None:
                norms["region"].append(_lengths(np.concatenate(arrays.regions)))
            if arrays.grid is not None:
                norms["grid"].append(_lengths(arrays.grid))
        split.close()
    return {name: np.concatenate(parts) for name, parts in norms.items() if parts}


def stored_arrays(folder: Path, manifest: Manifest) -> tuple[list[StoredArray], int]:
    """Every dataset with its type, row, rows and bytes, and the bytes of all files; the rest of them is the last."""
    stored: dict[str, StoredArray] = {}
    total = 0
    for opened in shards_of(folder, manifest):
        total += Path(opened.filename).stat().st_size
        for key, data in datasets_of(opened):
            kind = "text" if h5py.check_string_dtype(data.dtype) else str(data.dtype)
            row = " × ".join(map(str, data.shape[1:])) or "1"
            before = stored.get(key, StoredArray(key, kind, row, 0, 0))
            size = before.bytes + data.id.get_storage_size()
            stored[key] = StoredArray(key, kind, row, before.rows + len(data), size)
    rest = total - sum(array.bytes for array in stored.values())
    return [*stored.values(), StoredArray(TEXTS, "", "", 0, rest)], total


def datasets_of(opened: h5py.File) -> list[tuple[str, Any]]:
    """The arrays of an open shard, by name."""
    datasets: list[tuple[str, Any]] = []
    opened.visititems(lambda key, item: datasets.append((key, item)) if getattr(item, "shape", ()) else None)
    return sorted(datasets, key=lambda item: item[0])


def _counts(opened: h5py.File) -> dict[str, np.ndarray]:
    images = len(_data(opened, "image/id"))
    texts = _data(opened, "caption/text").asstr()[:]
    counts = {
        "captions_an_image": np.bincount(_data(opened, "caption/owner")[:], minlength=images),
        "words": np.array([len(text.split()) for text in texts], np.int64),
    }
    if "image/size" in opened:
        sizes = _data(opened, "image/size")[:].reshape(-1, 2)
        counts["sizes"] = sizes[(sizes > 0).all(axis=1)]
    if "region/offsets" in opened:
        counts["regions_an_image"] = np.diff(_data(opened, "region/offsets")[:])
    if "region/scores" in opened:
        counts["scores"] = _data(opened, "region/scores")[:]
    return counts


def _count_classes(opened: h5py.File, cells: np.ndarray, images: np.ndarray) -> None:
    """Add a shard's to `cells` [C + 1] and `images` [C]."""
    classes = len(images)
    for _, part in chunks(_data(opened, "seg/map"), lambda _: None):
        class_counts = np.bincount(part.ravel(), minlength=VOID + 1)
        cells[:classes] += class_counts[:classes]
        cells[classes] += class_counts[VOID]
    for _, part in chunks(_data(opened, "seg/categories"), lambda _: None):
        images += part.astype(bool).sum(axis=0)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors.astype(np.float32).reshape(-1, vectors.shape[-1]), axis=1)


def _data(opened: h5py.File, key: str) -> Any:
    return opened[key]
