"""What models know of their training photos: python experiments/options/by_heart.py <folders of runs> --shards <folder>

Every run below the folders is scored on as many photos of train as dev has, the first ones, with all their captions, as
it is on dev: same gallery, same protocol. What it has there above dev is what it learned of these very photos and
captions, and not of others. Rows of by_heart.csv, one a run and split.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import threeshnet
from threeshnet.batches.collate import collate_images
from threeshnet.encoders.model import RetrievalModel
from threeshnet.files import write_rows
from threeshnet.metrics.ranks import rank_similarity
from threeshnet.metrics.recalls import recall_of_ranks
from threeshnet.metrics.similarity import EmbeddingSimilarity
from threeshnet.runs.facts import machine
from threeshnet.runs.find import trainings
from threeshnet.runs.run import Run
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.checkpoint import checkpoint_hash, read_checkpoint

HERE = Path(__file__).resolve().parent
FILE, BATCH = "by_heart.csv", 100
COLUMNS = ("setting", "objective", "job", "seed", "split", "photos", "captions", "i2t_r1", "t2i_r1", "rsum")
COLUMNS += ("machine", "checkpoint", "commit")


@torch.inference_mode()
def scores(model: RetrievalModel, split: ShardedSplit, fields: list[str], photos: int) -> dict[str, Any]:
    """Recalls among the first `photos` of a split and all their captions."""
    batches = [range(start, min(start + BATCH, photos)) for start in range(0, photos, BATCH)]
    images = [model.encode_images(collate_images(split.read(numbers, fields, extras=False))) for numbers in batches]
    rows = np.flatnonzero(split.owners < photos)
    captions = model.encode_texts([split.caption_texts[row] for row in rows.tolist()])
    similarity = EmbeddingSimilarity(torch.cat(images), captions)
    found = recall_of_ranks(rank_similarity(similarity, split.owners[rows]))
    known = {"i2t_r1": f"{found['i2t']['R@1']:.1f}", "t2i_r1": f"{found['t2i']['R@1']:.1f}"}
    return known | {"photos": photos, "captions": len(rows), "rsum": f"{found['rsum']:.1f}"}


def rows_of(run: Run, shards: Path, splits: list[str]) -> Iterator[dict[str, Any]]:
    """A row a split of one finished run, by the checkpoint that it was scored with."""
    file = run.scored_checkpoint
    card = read_checkpoint(file)["threeshnet"]
    known = {"job": run.job.job_name, "machine": machine(), "checkpoint": checkpoint_hash(file)}
    known |= {name: card["run"][name] for name in ("setting", "objective", "seed", "commit")}
    model, opened = threeshnet.load_model(file), [ShardedSplit(shards, name) for name in splits]
    photos = min(split.images for split in opened)
    for split in opened:
        yield known | {"split": split.name} | scores(model, split, card["fields"], photos)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="of run directories")
    parser.add_argument("--shards", required=True, type=Path, help="that the runs were trained on")
    parser.add_argument("--splits", nargs="+", default=["train", "dev"])
    parser.add_argument("--out", type=Path, default=HERE, help="folder of by_heart.csv")
    asked = parser.parse_args()
    rows = [row for run in trainings(asked.folders) for row in rows_of(run, asked.shards, asked.splits)]
    write_rows(asked.out / FILE, COLUMNS, rows)
    print(f"{len(rows)} rows in {asked.out / FILE}; now: make report STUDY=options")


if __name__ == "__main__":
    main()
