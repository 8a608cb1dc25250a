"""Views and corrections when a model is scored: python experiments/options/views_scored.py <folders> --shards <folder>

Every run below the folders is scored on dev with its photos as they are, with some of their views (whose shards lie
beside), as the mean of both, and with views alone; each as it is and corrected for hubs by train, at several inverse
temperatures. It says how far the choices in `make evaluate views=[1,2,3] correction=inverted_softmax` matter. Rows of
views_scored.csv, one a run, way and inverse temperature.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import threeshnet
from threeshnet.batches.collate import collate_images
from threeshnet.encoders.model import RetrievalModel
from threeshnet.files import write_rows
from threeshnet.metrics.corrections import BETA, Corrected, inverted_softmax
from threeshnet.metrics.ranks import rank_similarity
from threeshnet.metrics.recalls import recall_of_ranks
from threeshnet.metrics.similarity import EmbeddingSimilarity
from threeshnet.nn.masking import unit
from threeshnet.runs.facts import machine
from threeshnet.runs.find import trainings
from threeshnet.runs.run import Run
from threeshnet.shards.manifest import Manifest, open_view, view_name
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.checkpoint import checkpoint_hash, read_checkpoint

HERE = Path(__file__).resolve().parent
FILE, BATCH, VIEWS, SCORED, BANK = "views_scored.csv", 100, (1, 2, 3), "dev", "train"
WAYS: dict[str, tuple[int, ...]] = {  # how often the photo counts, and each of its views
    "photo": (1, 0, 0, 0),
    "a view": (0, 1, 0, 0),
    "photo and a view": (1, 1, 0, 0),
    "photo and three views": (1, 1, 1, 1),
    "photo twice and three views": (2, 1, 1, 1),
}
BETAS = (None, 5.0, 10.0, BETA, 30.0, 50.0)  # None: not corrected
COLUMNS = ("setting", "objective", "job", "seed", "way", "beta", "photos", "captions", "rsum")
COLUMNS += ("machine", "checkpoint", "commit")


@torch.inference_mode()
def encoded(model: RetrievalModel, split: ShardedSplit, fields: list[str]) -> Tensor:
    """Embeddings [G, D] of a split's images."""
    starts = range(0, split.images, BATCH)
    batches = (range(start, min(start + BATCH, split.images)) for start in starts)
    return torch.cat([model.encode_images(collate_images(split.read(rows, fields, extras=False))) for rows in batches])


def rsum(images: Tensor, captions: Tensor, owners: Any, bank: tuple[Tensor, Tensor], beta: float | None) -> float:
    """As it is, or with both sides corrected by the `bank` of images and captions."""
    similarity = EmbeddingSimilarity(images, captions)
    if beta is None:
        return recall_of_ranks(rank_similarity(similarity, owners))["rsum"]
    sides = {
        "t2i": Corrected(similarity, inverted_softmax(images, bank[1], beta=beta), items="images"),
        "i2t": Corrected(similarity, inverted_softmax(captions, bank[0], beta=beta), items="captions"),
    }
    found = {side: recall_of_ranks(rank_similarity(source, owners))[side] for side, source in sides.items()}
    return sum(found[side][f"R@{cutoff}"] for side in sides for cutoff in (1, 5, 10))


def rows_of(run: Run, shards: Path) -> Iterator[dict[str, Any]]:
    """A row a way and inverse temperature of one finished run, by the checkpoint that it was scored with."""
    file = run.scored_checkpoint
    card, model = read_checkpoint(file)["threeshnet"], threeshnet.load_model(file)
    known = {"job": run.job.job_name, "machine": machine(), "checkpoint": checkpoint_hash(file)}
    known |= {name: card["run"][name] for name in ("setting", "objective", "seed", "commit")}
    dataset = Manifest.load(shards).dataset
    folders = [shards, *(open_view(shards, view_name(dataset, number)) for number in VIEWS)]
    seen = torch.stack([encoded(model, ShardedSplit(folder, SCORED), card["fields"]) for folder in folders])
    split, train = ShardedSplit(shards, SCORED), ShardedSplit(shards, BANK)
    captions, others = (model.encode_texts(list(each.caption_texts)).detach() for each in (split, train))
    bank = encoded(model, train, card["fields"]), others
    for way, weights in WAYS.items():
        images = unit(torch.einsum("v,vgd->gd", torch.tensor(weights, dtype=seen.dtype), seen))
        for beta in BETAS:
            score = {"photos": len(images), "captions": len(captions)}
            score |= {"rsum": f"{rsum(images, captions, split.owners, bank, beta):.1f}"}
            yield known | {"way": way, "beta": "" if beta is None else f"{beta:g}"} | score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="of run directories")
    parser.add_argument("--shards", required=True, type=Path, help="that the runs were trained on")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of views_scored.csv")
    asked = parser.parse_args()
    rows = [row for run in trainings(asked.folders) for row in rows_of(run, asked.shards)]
    write_rows(asked.out / FILE, COLUMNS, rows)
    print(f"{len(rows)} rows in {asked.out / FILE}; now: make report STUDY=options")


if __name__ == "__main__":
    main()
