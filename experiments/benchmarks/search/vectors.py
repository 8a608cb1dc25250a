"""Vectors like embeddings, of any number: clustered, of low rank, with noise; and queries like sentences.

An item is a unit vector: the centre of its cluster, its place in the cluster, and noise in all directions. The
variances of the first two fall as a power of the direction's number, so that few directions hold most of the energy.
A query is an item, moved away from it until their cosine is about 0.5, as that of a sentence and its photo. Uniformly
random vectors would be no test: all are almost equally far from a query, and graph indexes find nothing in them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

RANK = 256  # directions of the centres
ITEMS_A_CLUSTER = 50
WITHIN, NOISE = 0.6, 0.15  # lengths beside the centre's 1
QUERY_COSINE = 0.5
BLOCK = 1 << 14


def spectrum(rank: int, power: float = 0.5) -> np.ndarray:
    """Standard deviation of each direction, [rank]; their squares sum to 1."""
    found = np.arange(1, rank + 1, dtype=np.float64) ** -power
    return (found / np.sqrt((found**2).sum())).astype(np.float32)


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def directions(width: int, rank: int, seed: int) -> np.ndarray:
    """Orthonormal rows [rank, width]."""
    drawn = np.random.default_rng(seed).standard_normal((width, rank)).astype(np.float32)
    return np.ascontiguousarray(np.linalg.qr(drawn)[0].T)


def write_vectors(file: Path, items: int, width: int = 1024, seed: int = 0) -> np.ndarray:
    """Items [n, width] float32 of unit length in a file of NumPy's, a block at a time; the file as it is if there."""
    if file.is_file():
        return np.load(file, mmap_mode="r")
    random = np.random.default_rng([seed, 1])
    basis = directions(width, RANK, seed)
    scale = spectrum(RANK)
    clusters = max(1, items // ITEMS_A_CLUSTER)
    centres = random.standard_normal((clusters, RANK), dtype=np.float32) * scale
    partial = file.with_name(file.name + ".partial.npy")
    found = np.lib.format.open_memmap(partial, "w+", np.float32, (items, width))
    for first in range(0, items, BLOCK):
        count = min(BLOCK, items - first)
        inside = random.standard_normal((count, RANK), dtype=np.float32) * scale * WITHIN
        rows = (centres[random.integers(clusters, size=count)] + inside) @ basis
        rows += random.standard_normal((count, width), dtype=np.float32) * (NOISE / np.sqrt(width))
        found[first : first + count] = unit(rows)
    found.flush()
    del found
    partial.rename(file)
    return np.load(file, mmap_mode="r")


def queries_for(items: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Unit vectors [count, width] at a cosine of about QUERY_COSINE from an item each, in the items' own directions."""
    random = np.random.default_rng([seed, 2])
    width = items.shape[1]
    own = np.asarray(items[np.sort(random.choice(len(items), count, replace=False))])
    away = (random.standard_normal((count, RANK), dtype=np.float32) * spectrum(RANK)) @ directions(width, RANK, seed)
    away = unit(away - (away * own).sum(axis=1, keepdims=True) * own)
    return QUERY_COSINE * own + np.sqrt(1 - QUERY_COSINE**2) * away
