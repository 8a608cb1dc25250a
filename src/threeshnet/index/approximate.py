"""Approximate search with faiss, for indexes that are too large to be read for each query.

The structure holds each embedding's part in the directions with the most energy, in 8 bits a number; what it finds is
scored again in float64 from the embeddings on the disk. The directions are not centred, so inner products are kept.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from threeshnet.errors import ConfigError, IndexFault
from threeshnet.files import replacing
from threeshnet.index.exact import rescored
from threeshnet.index.rows import read_array

FILE, DIRECTIONS = "approximate.faiss", "directions.npy"
FACTORIES = {"hnsw": "HNSW32,SQ8", "ivf": "IVF{lists},SQ8", "ivf-flat": "IVF{lists},Flat"}
KEPT = 256  # directions: 94% of the energy of a demo model's 128 is in 50, of COCO models' 1,024 in fewer than these
SAMPLE = 20_000  # rows that the directions are found in
CANDIDATES = 4  # rows scored again for each that is asked for
# Neighbours that HNSW weighs for each link. With faiss's 40 a million vectors take a third of the time to build, and
# recall@10 is 0.975 instead of 0.989 (benchmarks/search).
CONSTRUCTION = 160
# Of HNSW's search, and the share of IVF's lists that are searched: recall@10 of 0.99 at 100,000 (benchmarks/search).
DEPTH, PROBED = 1024, 0.2
BLOCK = 1 << 14


def check_faiss(kind: str) -> None:
    """Raises ConfigError where faiss is not installed."""
    if find_spec("faiss") is None:
        raise ConfigError(f"approximate={kind} needs a package: pip install 'threeshnet[faiss]'")


def write_approximate(rows: Path, embeddings: np.ndarray, kind: str) -> None:
    """Build the structure of `kind` over embeddings [n, D] and write it beside the rows."""
    import faiss

    width = min(KEPT, embeddings.shape[1])
    directions = main_directions(embeddings, width)
    lists = max(1, int(4 * len(embeddings) ** 0.5))
    index: Any = faiss.index_factory(width, FACTORIES[kind].format(lists=lists), faiss.METRIC_INNER_PRODUCT)
    if kind == "hnsw":
        index.hnsw.efConstruction = CONSTRUCTION
    if not index.is_trained:
        step = max(1, len(embeddings) // (64 * lists))
        index.train(np.ascontiguousarray(embeddings[::step] @ directions))
    for first in range(0, len(embeddings), BLOCK):
        index.add(np.ascontiguousarray(embeddings[first : first + BLOCK] @ directions))
    with replacing(rows / DIRECTIONS) as partial, partial.open("wb") as opened:
        np.save(opened, directions)
    with replacing(rows / FILE) as partial:
        faiss.write_index(index, str(partial))


def main_directions(embeddings: np.ndarray, width: int) -> np.ndarray:
    """Orthonormal columns [D, width] float32 that hold the most of the sum of squares."""
    sample = np.asarray(embeddings[:: max(1, len(embeddings) // SAMPLE)], np.float64)
    return np.ascontiguousarray(np.linalg.eigh(sample.T @ sample)[1][:, ::-1][:, :width].astype(np.float32))


class Approximate:
    """The structure beside the rows of an index."""

    def __init__(self, rows: Path, embeddings: np.ndarray) -> None:
        """Raises ConfigError where faiss is not installed."""
        check_faiss("the index's")
        import faiss

        self.faiss, self.embeddings = faiss, embeddings
        self.depth, self.probed = DEPTH, PROBED
        self.directions = read_array(rows / DIRECTIONS)
        try:
            self.index: Any = faiss.read_index(str(rows / FILE))
        except RuntimeError as error:
            raise IndexFault(f"{rows / FILE} cannot be read; make the index again, or give exact=true") from error

    def nearest(
        self, queries: np.ndarray, top: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """As `exact.nearest`, but some rows may be missed; None where fewer than `top` were found for some query."""
        count = min(top * CANDIDATES, len(self.embeddings))
        projected = np.ascontiguousarray(queries @ self.directions, np.float32)
        candidates = self.index.search(projected, count, params=self._parameters(count, allowed))[1]
        whole = int((candidates >= 0).all(axis=0).sum())  # what is missing stands last
        return rescored(self.embeddings, queries, candidates[:, :whole], top) if whole >= min(top, count) else None

    def _parameters(self, count: int, allowed: np.ndarray | None) -> Any:
        chosen = None
        if allowed is not None:
            chosen = self.faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        if hasattr(self.index, "hnsw"):
            return self.faiss.SearchParametersHNSW(efSearch=max(self.depth, count), sel=chosen)
        return self.faiss.SearchParametersIVF(nprobe=max(1, int(self.index.nlist * self.probed)), sel=chosen)
