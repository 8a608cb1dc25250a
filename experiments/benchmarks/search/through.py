"""rsum through an index against the exact ranks, and the speed of indexing: rows in through.csv and indexing.csv.

    python -m experiments.benchmarks.search.through --run <run> --shards <its shards> --folder <folder>
    python -m experiments.benchmarks.search.through --run <run> --photos <folder of photos> --folder <folder>

With shards, the images and the captions of the split are indexed, each finds the other, and the recalls are counted in
the ten first results. The exact rsum is that of `metrics.recall` over all similarities.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from threeshnet.index.build import Options, update_index
from threeshnet.index.index import Index
from threeshnet.index.sources import PhotoFolder, ShardCaptions, ShardImages
from threeshnet.metrics import recall
from threeshnet.retriever import Retriever
from threeshnet.shards.reader import ShardedSplit

from ..common import add_row

HERE = Path(__file__).parent
COLUMNS = ["data", "split", "images", "captions", "way", "rsum", "exact_rsum"]
SPEED = ["photos", "fields", "workers", "wall_seconds", "processor_seconds", "again_seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    retriever = Retriever.load(given.run, device="cpu")
    if given.shards:
        for row in recalls(retriever, ShardedSplit(given.shards, given.split), given.folder):
            add_row(given.out / "through.csv", COLUMNS, row)
    if given.photos:
        add_row(given.out / "indexing.csv", SPEED, speed(retriever, given.photos, given.folder, given.workers))


def recalls(retriever: Retriever, split: ShardedSplit, folder: Path) -> list[dict[str, object]]:
    """A row for each way to search."""
    rows = []
    for way in (None, "hnsw", "ivf"):
        options = Options(progress=False, approximate=way, text_tower=False)
        opened = []
        for source in (ShardImages(retriever, split), ShardCaptions(retriever, split)):
            update_index(source, retriever, folder / source.kind, options)
            opened.append(Index.open(folder / source.kind))
        images, captions = (np.array(index.rows.embeddings) for index in opened)
        exact = recall(
            torch.from_numpy(images.astype(float) @ captions.T.astype(float)), torch.from_numpy(split.owners)
        )
        found = opened[0]._nearest((), None, False)(captions, 10)[0]
        hits = [(found[:, :k] == split.owners[:, None]).any(axis=1).mean() for k in (1, 5, 10)]
        found = opened[1]._nearest((), None, False)(images, 10)[0]
        own = split.owners[found] == np.arange(len(images))[:, None]
        hits += [own[:, :k].any(axis=1).mean() for k in (1, 5, 10)]
        values = (split.manifest.dataset, split.name, len(images), len(captions), way or "exact")
        rows.append(dict(zip(COLUMNS, (*values, f"{100 * sum(hits):.2f}", f"{exact['rsum']:.2f}"), strict=True)))
    return rows


def speed(retriever: Retriever, photos: Path, folder: Path, workers: int) -> dict[str, object]:
    """Seconds of a first indexing and of a second one; processor seconds without those of the workers."""
    source = PhotoFolder(retriever, photos, workers=workers)
    options = Options(progress=False, text_tower=False)
    begun, processor = time.perf_counter(), time.process_time()
    counts = update_index(source, retriever, folder / "photos", options)
    wall, processor = time.perf_counter() - begun, time.process_time() - processor
    begun = time.perf_counter()
    assert update_index(PhotoFolder(retriever, photos), retriever, folder / "photos", options).encoded == 0
    values = (counts.encoded, " ".join(retriever.card["fields"]), workers, f"{wall:.1f}", f"{processor:.1f}")
    return dict(zip(SPEED, (*values, f"{time.perf_counter() - begun:.1f}"), strict=True))


if __name__ == "__main__":
    main()
