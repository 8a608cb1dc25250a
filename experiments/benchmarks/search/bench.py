"""Build time, memory, speed and recall@10 of ways to search: rows in rows.csv beside this file.

    python -m experiments.benchmarks.search.bench --items 10000 100000 --folder <folder>

Each way runs in a process of its own. Recall is against exact search in float64. Speed is of batches of all queries
(`queries_a_second`) and of one query at a time (`p50_ms`, `p95_ms`; `cpu_ms` is processor time, which other jobs of the
machine hardly change). Memory is what the built structure takes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..common import add_row, in_own_process, peak_gb
from .vectors import queries_for, write_vectors

HERE = Path(__file__).parent
COLUMNS = ["way", "vectors", "width", "threads", "setting", "build_seconds", "megabytes", "queries_a_second"]
COLUMNS += ["p50_ms", "p95_ms", "cpu_ms", "recall_at_10", "peak_gb", "cores", "commit"]
TOP = 10
QUERIES = 500
SINGLE = 200  # queries that are timed one at a time
Search = Callable[[np.ndarray], np.ndarray]  # [Q, D] -> rows [Q, 10]


class Way(NamedTuple):
    """A built structure: its search at each setting, and its bytes."""

    search: dict[str, Search]
    bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000])
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "rows.csv")
    parser.add_argument("--one", action="store_true", help="measure the first way here and print it")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.one:
        sys.stdout.write(json.dumps(measured(given.ways[0], given.items[0], given)) + "\n")
        return
    for items in given.items:
        vectors = write_vectors(given.folder / f"{items}.npy", items)
        truth_of(vectors, given.folder / f"{items}.truth.npy")
        for way in given.ways:
            where = ["--folder", str(given.folder), "--threads", str(given.threads)]
            found = in_own_process(
                "experiments.benchmarks.search.bench", "--one", "--ways", way, "--items", str(items), *where
            )
            for row in found:
                add_row(given.out, COLUMNS, row)


def truth_of(vectors: np.ndarray, file: Path) -> np.ndarray:
    """Rows of the ten nearest of each query, by sums in float64; computed once."""
    if file.is_file():
        return np.load(file)
    from threeshnet.index.exact import nearest

    found = nearest(vectors, queries_for(vectors, QUERIES), TOP)[0]
    np.save(file, found)
    return found


def measured(name: str, items: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each setting of a way."""
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    from threeshnet.installation import current_commit

    vectors = np.load(given.folder / f"{items}.npy", mmap_mode="r")
    truth = np.load(given.folder / f"{items}.truth.npy")
    queries = queries_for(vectors, QUERIES)
    begun = time.perf_counter()
    way = WAYS[name](vectors, given.folder, given.threads)
    seconds = time.perf_counter() - begun
    rows = []
    for setting, search in way.search.items():
        search(queries[:1])
        begun = time.perf_counter()
        found = search(queries)
        batch = time.perf_counter() - begun
        single, processor = [], time.process_time()
        for query in queries[:SINGLE]:
            begun = time.perf_counter()
            search(query[None])
            single.append(1000 * (time.perf_counter() - begun))
        cpu = 1000 * (time.process_time() - processor) / SINGLE
        pairs = zip(found.tolist(), truth.tolist(), strict=True)
        recall = np.mean([len(set(one) & set(other)) / TOP for one, other in pairs])
        p50, p95 = np.percentile(single, [50, 95])
        values = (name, items, vectors.shape[1], given.threads, setting, f"{seconds:.1f}", f"{way.bytes / 1e6:.0f}")
        values += (
            f"{len(queries) / batch:.0f}",
            f"{p50:.2f}",
            f"{p95:.2f}",
            f"{cpu:.2f}",
            f"{recall:.4f}",
            f"{peak_gb():.2f}",
        )
        rows.append(dict(zip(COLUMNS, (*values, os.cpu_count(), current_commit()), strict=True)))
    return rows


# ---- ways


def exact(vectors: np.ndarray, _folder: Path, _threads: int) -> Way:
    """The suite's exact search, float32 from the page cache, the best in float64."""
    from threeshnet.index.exact import nearest

    return Way({"": lambda queries: nearest(vectors, queries, TOP)[0]}, vectors.nbytes)


def torch_half(vectors: np.ndarray, _folder: Path, threads: int) -> Way:
    """The product in torch in bfloat16, the 100 best in float64."""
    import torch

    from threeshnet.index.exact import rescored

    torch.set_num_threads(threads)
    half = torch.empty(vectors.shape, dtype=torch.bfloat16)
    for first in range(0, len(vectors), 1 << 14):
        half[first : first + (1 << 14)] = torch.from_numpy(np.array(vectors[first : first + (1 << 14)]))

    def search(queries: np.ndarray) -> np.ndarray:
        scores = torch.from_numpy(queries).bfloat16() @ half.T
        best = scores.topk(min(100, len(half)), dim=1).indices.numpy()
        return rescored(vectors, queries, best, TOP)[0]

    return Way({"": search}, half.nbytes)


def faiss_way(factory: str, settings: dict[str, dict[str, int]], spare: int = 40) -> Callable[..., Way]:
    """A structure of faiss by its factory text; the `spare` best are scored again in float64 from the disk."""

    def build(vectors: np.ndarray, folder: Path, threads: int) -> Way:
        import faiss

        from threeshnet.index.exact import rescored

        faiss.omp_set_num_threads(threads)
        lists = max(1, int(4 * len(vectors) ** 0.5))
        index = faiss.index_factory(vectors.shape[1], factory.format(lists=lists), faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            step = max(1, len(vectors) // min(len(vectors), 64 * lists))
            index.train(np.ascontiguousarray(vectors[::step]))
        for first in range(0, len(vectors), 1 << 14):
            index.add(np.ascontiguousarray(vectors[first : first + (1 << 14)]))
        file = folder / "built.faiss"
        faiss.write_index(index, str(file))
        size = file.stat().st_size
        file.unlink()

        def at(values: dict[str, int]) -> Search:
            def search(queries: np.ndarray) -> np.ndarray:
                for key, value in values.items():
                    faiss.ParameterSpace().set_index_parameter(index, key, value)
                found = index.search(np.ascontiguousarray(queries), spare)[1]
                return rescored(vectors, queries, np.maximum(found, 0), TOP)[0]

            return search

        return Way({name: at(values) for name, values in settings.items()}, size)

    return build


def suite_way(kind: str, name: str, settings: Sequence[float]) -> Callable[..., Way]:
    """The suite's approximate search, with a value of Approximate each."""

    def build(vectors: np.ndarray, folder: Path, threads: int) -> Way:
        import faiss

        from threeshnet.index.approximate import FILE, Approximate, write_approximate

        faiss.omp_set_num_threads(threads)
        write_approximate(folder, vectors, kind)
        size = (folder / FILE).stat().st_size
        built = Approximate(folder, vectors)

        def at(value: float) -> Search:
            def search(queries: np.ndarray) -> np.ndarray:
                setattr(built, name, value)
                found = built.nearest(queries, TOP)
                assert found is not None
                return found[0]

            return search

        return Way({f"{name}={value}": at(value) for value in settings}, size)

    return build


def qdrant(vectors: np.ndarray, _folder: Path, _threads: int) -> Way:
    """Qdrant's local mode, which runs in this process."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    client.create_collection("items", models.VectorParams(size=vectors.shape[1], distance=models.Distance.DOT))
    for first in range(0, len(vectors), 1 << 12):
        block = np.array(vectors[first : first + (1 << 12)])
        client.upload_collection("items", block, ids=range(first, first + len(block)))

    def search(queries: np.ndarray) -> np.ndarray:
        asked = [models.QueryRequest(query=query.tolist(), limit=TOP) for query in queries]
        found = client.query_batch_points("items", asked)
        return np.array([[point.id for point in each.points] for each in found])

    return Way({"local": search}, vectors.nbytes)


def milvus(vectors: np.ndarray, folder: Path, _threads: int) -> Way:
    """Milvus Lite, which runs in this process over a file."""
    from pymilvus import MilvusClient

    file = folder / "milvus.db"
    file.unlink(missing_ok=True)
    client = MilvusClient(str(file))
    client.create_collection("items", dimension=vectors.shape[1], metric_type="IP")
    for first in range(0, len(vectors), 1000):
        block = np.array(vectors[first : first + 1000])
        client.insert("items", [{"id": first + row, "vector": vector} for row, vector in enumerate(block)])

    def search(queries: np.ndarray) -> np.ndarray:
        found = client.search("items", data=list(queries), limit=TOP)
        return np.array([[hit["id"] for hit in each] for each in found])

    return Way({"lite": search}, vectors.nbytes)


PROBES = {f"nprobe={n}": {"nprobe": n} for n in (16, 64, 256)}
DEPTHS = {f"efSearch={n}": {"efSearch": n} for n in (64, 128, 256, 512)}
WAYS: dict[str, Callable[[np.ndarray, Path, int], Way]] = {
    "exact": exact,
    "torch bfloat16": torch_half,
    "IVF-Flat": faiss_way("IVF{lists},Flat", PROBES),
    "IVF-SQ8": faiss_way("IVF{lists},SQ8", PROBES),
    "HNSW": faiss_way("HNSW32,Flat", DEPTHS),
    "HNSW-SQ8": faiss_way("HNSW32,SQ8", DEPTHS),
    "hnsw": suite_way("hnsw", "depth", (64, 128, 256, 512, 1024)),
    "ivf": suite_way("ivf", "probed", (0.01, 0.05, 0.2)),
    "Qdrant": qdrant,
    "Milvus": milvus,
}


if __name__ == "__main__":
    main()
