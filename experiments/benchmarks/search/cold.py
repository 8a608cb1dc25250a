"""Seconds from `threeshnet search` to its answer, in a process that starts: rows in cold.csv beside this file.

    python -m experiments.benchmarks.search.cold --run <run> --items 100000 --folder <folder>

The index holds random vectors of the model's width, with the model's text encoder beside them. Wall and processor
seconds are the medians of the repetitions; the files are in the page cache.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from threeshnet.files import write_rows
from threeshnet.index.build import Options, update_index
from threeshnet.index.manifest import Kind
from threeshnet.index.sources import Encoded, Item
from threeshnet.retriever import Retriever

from ..common import module_command, surroundings

HERE = Path(__file__).parent
COLUMNS = ["vectors", "width", "way", "wall_seconds", "processor_seconds", "repetitions"]
REPETITIONS = 7
WAYS = {
    "onnxruntime, plain words": ["--json"],
    "onnxruntime, through Hydra": ["--json", "hydra.job.chdir=false"],
}


class Random:
    """Items without photos, whose embeddings are drawn."""

    kind: Kind = "images"
    raw = ""
    class_names: Sequence[str] = ()

    def __init__(self, count: int, width: int) -> None:
        self.count, self.width = count, width
        self.extractors: dict[str, dict[str, object]] = {}

    def items(self) -> list[Item]:
        return [Item(number, f"{number:07d}", f"{number:07d}.jpg", key=str(number)) for number in range(self.count)]

    def key(self, item: Item) -> str:
        return item.key

    def encode(self, items: Sequence[Item]) -> Iterator[Encoded]:
        drawn = np.random.default_rng(items[0].number).standard_normal((len(items), self.width), dtype=np.float32)
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        yield Encoded(list(items), drawn, {"sha256": [item.key for item in items]}, [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE / "cold.csv")
    given = parser.parse_args()
    retriever = Retriever.load(given.run, device="cpu")
    width = retriever.encode_texts(["a dog"]).shape[1]
    rows = []
    for items in given.items:
        folder = given.folder / str(items)
        update_index(Random(items, width), retriever, folder, Options(progress=False))
        for way, words in WAYS.items():
            walls, processors = zip(*(once(folder, words) for _ in range(REPETITIONS)), strict=True)
            values = (items, width, way, f"{np.median(walls):.2f}", f"{np.median(processors):.2f}", REPETITIONS)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
            write_rows(given.out, COLUMNS, rows)


def once(folder: Path, words: Sequence[str]) -> tuple[float, float]:
    """Wall and processor seconds of one search."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = module_command("threeshnet", "search", str(folder), "a red ball on the table", *words)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=surroundings())
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
