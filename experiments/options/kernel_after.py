"""A kernel branch fitted to finished runs: python -m experiments.options.kernel_after <folders> --shards <folder>

Every run below the folders gets a kernel branch over its training photos, fitted to its text encoder's embeddings of
their captions. Dev is scored with the trained branch alone, with the kernel branch alone, and with both at several
weights of the kernel branch; as photos, and as means of photos and views. The trained weights stay as they are. Rows of
kernel_after.csv, one a run and weight.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from experiments.options.views_scored import BANK, BATCH, SCORED, VIEWS, encoded
from torch import Tensor

import threeshnet
from threeshnet.batches.collate import collate_images
from threeshnet.encoders.hybrid import joined
from threeshnet.encoders.kernel import KernelPooling, Roots
from threeshnet.files import write_rows
from threeshnet.metrics.recalls import recall
from threeshnet.metrics.similarity import EmbeddingSimilarity
from threeshnet.nn.masking import unit
from threeshnet.pooling.mean import MeanPooling
from threeshnet.records import TokenSet
from threeshnet.runs.facts import machine
from threeshnet.runs.find import trainings
from threeshnet.runs.run import Run
from threeshnet.shards.manifest import Manifest, open_view, view_name
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.checkpoint import checkpoint_hash, read_checkpoint

HERE = Path(__file__).resolve().parent
FILE = "kernel_after.csv"
WEIGHTS = {"0": (1.0, 0.0), "0.25": (1.0, 0.25), "0.5": (1.0, 0.5), "1": (1.0, 1.0), "alone": (0.0, 1.0)}
COLUMNS = ("job", "seed", "weight", "rsum", "rsum_in_views", "machine", "checkpoint", "commit")


@torch.inference_mode()
def mean_roots(split: ShardedSplit) -> Tensor:
    """What the kernel branch compares, [G, width] of a split's images."""
    means = []
    for start in range(0, split.images, BATCH):
        rows = range(start, min(start + BATCH, split.images))
        grid = collate_images(split.read(rows, ["grid"], extras=False)).grid
        assert grid is not None
        means.append(MeanPooling()(Roots(width=grid.values.shape[-1])(grid)[0]))
    return torch.cat(means)


def fitted(means: Tensor, captions: Tensor, owners: Tensor) -> KernelPooling:
    """The branch of training photos [n, width] and captions [Q, D] of the photos `owners` [Q]. All weigh the same."""
    pooling = KernelPooling(width=means.shape[1], dim=captions.shape[1], photos=len(means))
    pooling.keep(means)
    pooling.targets.index_add_(0, owners, captions)
    pooling.fit()
    return pooling


def rows_of(run: Run, shards: Path) -> Iterator[dict[str, Any]]:
    """A row a weight of one finished run, by the checkpoint that it was scored with."""
    file = run.scored_checkpoint
    card, model = read_checkpoint(file)["threeshnet"], threeshnet.load_model(file)
    known = {"job": run.job.job_name, "machine": machine(), "checkpoint": checkpoint_hash(file)}
    known |= {name: card["run"][name] for name in ("seed", "commit")}
    dataset, split, train = Manifest.load(shards).dataset, ShardedSplit(shards, SCORED), ShardedSplit(shards, BANK)
    seen_as = [ShardedSplit(open_view(shards, view_name(dataset, number)), SCORED) for number in VIEWS]
    captions, others = (model.encode_texts(list(each.caption_texts)).detach() for each in (split, train))
    pooling = fitted(mean_roots(train), others, torch.from_numpy(train.owners).long())
    branches = []
    for each in (split, *seen_as):
        means = mean_roots(each)
        alone = unit(pooling(TokenSet(means.unsqueeze(1), torch.ones(len(means), 1, dtype=torch.bool))))
        branches.append((encoded(model, each, card["fields"]), alone))
    for name, weights in WEIGHTS.items():
        photos, *views = (joined(pair, weights) for pair in branches)
        found = [unit(images) for images in (photos, torch.stack([photos, *views]).sum(dim=0))]
        scores = [recall(EmbeddingSimilarity(images, captions), split.owners)["rsum"] for images in found]
        yield known | {"weight": name, "rsum": f"{scores[0]:.1f}", "rsum_in_views": f"{scores[1]:.1f}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="of run directories")
    parser.add_argument("--shards", required=True, type=Path, help="that the runs were trained on")
    parser.add_argument("--out", type=Path, default=HERE, help=f"folder of {FILE}")
    asked = parser.parse_args()
    rows = []
    for run in trainings(asked.folders):
        rows += rows_of(run, asked.shards)
        print(json.dumps(rows[-len(WEIGHTS) :]), flush=True)
    write_rows(asked.out / FILE, COLUMNS, rows)
    print(f"{len(rows)} rows in {asked.out / FILE}; now: make report STUDY=options")


if __name__ == "__main__":
    main()
