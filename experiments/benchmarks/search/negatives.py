"""Which share of `without` is taken off, on the demo's dev split: rows in negatives.csv beside this file.

    python -m experiments.benchmarks.search.negatives --run <run of hybrid_demo> --shards <its shards>

For each pair of classes that occur together in some photos, and apart in others: the query is "a <one>", without "a
<other>". Counted among the ten first photos: those with the one class and without the other, by the renderer's masks.
The share in `ranking.PENALTY` is the best on dev; test is reported.
"""

from __future__ import annotations

import argparse
from itertools import permutations
from pathlib import Path

import numpy as np

from threeshnet.files import write_rows
from threeshnet.index.exact import nearest
from threeshnet.index.sources import ShardImages
from threeshnet.retriever import Retriever
from threeshnet.shards.reader import ShardedSplit

HERE = Path(__file__).parent
COLUMNS = ["split", "penalty", "pairs", "with_the_one", "and_without_the_other"]
PENALTIES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5)
TOP = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    retriever = Retriever.load(given.run, device="cpu")
    rows = [row for name in ("dev", "test") for row in measured(retriever, ShardedSplit(given.shards, name))]
    write_rows(given.out / "negatives.csv", COLUMNS, rows)


def measured(retriever: Retriever, split: ShardedSplit) -> list[dict[str, object]]:
    """A row for each penalty."""
    source = ShardImages(retriever, split)
    images = np.concatenate([batch.embeddings for batch in source.encode(source.items())])
    held = split.read(range(len(split)), ["seg"]).seg_categories
    assert held is not None
    held = held.astype(bool)
    names = split.manifest.class_names
    texts = retriever.encode_texts([f"a {name}" for name in names]).numpy()
    both = [(held[:, one] & held[:, other]).sum() for one, other in permutations(range(len(names)), 2)]
    apart = [(held[:, one] & ~held[:, other]).sum() for one, other in permutations(range(len(names)), 2)]
    pairs = [
        pair
        for pair, together, alone in zip(permutations(range(len(names)), 2), both, apart, strict=True)
        if together >= 3 and alone >= TOP
    ]
    rows = []
    for penalty in PENALTIES:
        queries = np.stack([texts[one] - penalty * texts[other] for one, other in pairs])
        found = nearest(images, queries, TOP)[0]
        ones, others = np.array(pairs).T
        there, absent = held[found, ones[:, None]], ~held[found, others[:, None]]
        values = (split.name, penalty, len(pairs), f"{there.mean():.4f}", f"{(there & absent).mean():.4f}")
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


if __name__ == "__main__":
    main()
