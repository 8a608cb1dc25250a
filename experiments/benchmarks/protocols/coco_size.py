"""Features to recalls with images encoded once, against the plain way.

    python -m experiments.benchmarks.protocols.coco_size

The plain way is that of the published evaluation scripts of this family (VSE++, SCAN and what came of them): the data
set is pairs, so that an image is read and encoded for each of its captions, and a Python loop sorts the whole gallery
for every query. Both ways use the same random weights, shards and batch size, and must give the same recalls. A third
way is ours in bfloat16, as `precision=bf16-mixed` asks `make evaluate` for; its recalls may differ.
Shards: make data DATA=synthetic OUT=<folder> ARGS="images=8334" (3 GB); 60% of them, 5,000, are in its split `train`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor

from threeshnet.batches.collate import collate_images
from threeshnet.cli.door import compose_training
from threeshnet.installation import current_commit
from threeshnet.metrics.ranks import rank_similarity
from threeshnet.metrics.recalls import recall_of_ranks
from threeshnet.metrics.similarity import EmbeddingSimilarity
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training import building

from ..common import in_own_process, peak_gb, show_and_write

WAYS = ("ours", "bfloat16", "plain")
AGREE = 0.05  # points of recall: the two ways sum in another order, so that near ties may change places


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parsed(arguments)
    torch.set_num_threads(options.threads)
    if options.only:
        return one_way(options)
    given = sys.argv[1:] if arguments is None else arguments
    # Peak memory is of a whole process: each way has its own, one after the other.
    parts = {way: in_own_process(__spec__.name, *given, f"--only={way}", "--out=") for way in WAYS}
    apart = abs(parts["ours"]["recall"]["rsum"] - parts["plain"]["recall"]["rsum"])
    if apart > AGREE:
        raise AssertionError(f"the two ways differ by {apart} points of rsum: one of them is wrong")
    plain_seconds = parts["plain"]["seconds"]["all"]
    found = {
        "ratio": {way: round(plain_seconds / parts[way]["seconds"]["all"], 2) for way in WAYS[:-1]},
        "rsum_apart": apart,
        **parts,
        "threads": options.threads,
        "commit": current_commit(),
    }
    show_and_write(found, options.out)
    return found


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True, help="folder of the shards (with manifest.json)")
    parser.add_argument("--split", default="train")
    parser.add_argument("--experiment", default="region_coco", help="the model: kind and data")
    parser.add_argument("--text", default="tiny", help="text encoder")
    parser.add_argument("--dim", type=int, default=256, help="width of the joint space")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--limit", type=int, help="only the first images of the split")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--only", choices=WAYS, help="one way alone, in this process")
    parser.add_argument("--out", help="JSON file for the result")
    return parser.parse_args(arguments)


def one_way(options: argparse.Namespace) -> dict[str, Any]:
    """Encode and rank by one of the ways; prints its times, memory and recalls as JSON."""
    split = ShardedSplit(options.shards, options.split)
    count = min(options.limit or split.images, split.images)
    rows = np.flatnonzero(split.owners < count)
    model, fields = build(options, split)
    way = {"ours": ours, "bfloat16": partial(ours, lower=True), "plain": plain}[options.only]
    with torch.inference_mode():
        found = way(model, split, fields, rows, options.batch)
    found |= {"images": count, "captions": len(rows), "peak_memory_gb": round(peak_gb(), 2)}
    sys.stdout.write(json.dumps(found) + "\n")
    return found


def build(options: argparse.Namespace, split: ShardedSplit) -> tuple[Any, list[str]]:
    """A model with random weights for these shards, the same for both ways."""
    torch.manual_seed(0)
    overrides = [f"experiment={options.experiment}", f"text={options.text}", f"dim={options.dim}"]
    settings = building.with_sizes(compose_training(overrides)[0], split.manifest)
    return instantiate(settings.model).eval(), building.fields_read(settings)


def ours(
    model: Any, split: ShardedSplit, fields: list[str], rows: np.ndarray, batch: int, *, lower: bool = False
) -> dict[str, Any]:
    """Each image once, captions shortest first, ranks in blocks; `lower` encodes in bfloat16."""
    started = time.perf_counter()
    owner = split.owners[rows]
    with torch.autocast("cpu", torch.bfloat16, enabled=lower):
        images = torch.cat([encode_images(model, split, fields, part) for part in in_parts(np.unique(owner), batch)])
        captions = model.encode_texts([split.caption_texts[row] for row in rows], batch_size=batch)
    encoded = time.perf_counter()
    recall = recall_of_ranks(rank_similarity(EmbeddingSimilarity(images, captions), owner))
    return {"seconds": seconds(started, encoded), "recall": recall}


def plain(model: Any, split: ShardedSplit, fields: list[str], rows: np.ndarray, batch: int) -> dict[str, Any]:
    """Each image once a caption, captions as they come, and a loop over the queries that sorts for each of them."""
    started = time.perf_counter()
    images, captions = plain_embeddings(model, split, fields, rows, batch)
    encoded = time.perf_counter()
    return {"recall": plain_recall(images, captions, split.owners[rows]), "seconds": seconds(started, encoded)}


def plain_embeddings(
    model: Any, split: ShardedSplit, fields: list[str], rows: np.ndarray, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images [G, D], each of which is encoded for each of its captions, and captions [Q, D]."""
    images, captions = [], []
    for part in in_parts(rows, batch):
        images.append(encode_images(model, split, fields, split.owners[part], every_pair=True))
        captions.append(model.text_encoder(model.tokenizer([split.caption_texts[row] for row in part])))
    firsts = np.unique(split.owners[rows], return_index=True)[1]
    return torch.cat(images).numpy()[firsts], torch.cat(captions).numpy()


def plain_recall(images: np.ndarray, captions: np.ndarray, owner: np.ndarray) -> dict[str, float]:
    """Recalls of embeddings [G, D] and [Q, D] by sorting the whole gallery for every query."""
    similarity = images @ captions.T
    i2t, t2i = np.zeros(len(images), dtype=np.int64), np.zeros(len(captions), dtype=np.int64)
    for image in range(len(images)):
        order = np.argsort(similarity[image])[::-1]
        best = min(int(np.where(order == caption)[0][0]) for caption in np.flatnonzero(owner == image))
        wrong = owner[order[:best]] != image
        i2t[image] = int(wrong.sum()) + 1
    for caption in range(len(captions)):
        order = np.argsort(similarity[:, caption])[::-1]
        t2i[caption] = int(np.where(order == owner[caption])[0][0]) + 1
    recalls = {
        f"{side} R@{k}": 100 * float((found <= k).mean())
        for side, found in (("i2t", i2t), ("t2i", t2i))
        for k in (1, 5, 10)
    }
    return {**recalls, "rsum": sum(recalls.values())}


def encode_images(
    model: Any, split: ShardedSplit, fields: list[str], numbers: np.ndarray, *, every_pair: bool = False
) -> Tensor:
    """Embeddings of these images; `every_pair` reads an image anew for each time it is named."""
    if not every_pair:
        return model.encode_images(collate_images(split.read(numbers, fields)))
    arrays = [split.read([number], fields) for number in numbers]
    joined = type(arrays[0])(
        *(None if field[0] is None else joined_field(field) for field in zip(*arrays, strict=True))
    )
    return model.encode_images(collate_images(joined))


def joined_field(parts: tuple[Any, ...]) -> Any:
    return [row for part in parts for row in part] if isinstance(parts[0], list) else np.concatenate(parts)


def in_parts(numbers: np.ndarray, size: int) -> list[np.ndarray]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def seconds(started: float, encoded: float) -> dict[str, float]:
    now = time.perf_counter()
    return {"encode": round(encoded - started, 2), "rank": round(now - encoded, 2), "all": round(now - started, 2)}


if __name__ == "__main__":
    main()
