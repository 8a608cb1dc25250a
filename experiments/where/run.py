"""Which side cannot tell where: python -m experiments.where.run --image exact --text exact --photos 800

Trains a small dual encoder over the demo world with exact or learned sides (`sides.py`), and adds a row to results.csv:
how often the right one of two twins is chosen. Chance is half.

    python -m experiments.where.run --figure      # draws the figure from the committed rows
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from experiments.where.sides import BOXES, ExactClaims, ExactImages, Regions, Sentences, regions
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn
from torch.nn.utils import clip_grad_norm_

from threeshnet.demo.captions import Caption
from threeshnet.demo.world import Entry, split_entries
from threeshnet.files import read_rows, write_rows
from threeshnet.installation import current_commit
from threeshnet.metrics.recalls import recall
from threeshnet.metrics.similarity import EmbeddingSimilarity
from threeshnet.metrics.twins import pair_accuracy, told_apart, twins
from threeshnet.objectives.triplet import TripletLoss
from threeshnet.reports.figure import write_figure

FILE = Path(__file__).resolve().with_name("results.csv")
KEY = ("image", "text", "photos", "epochs", "seed")
TAGS = ("what", "where", "both")
COLUMNS = (*KEY, "steps", "rsum", *TAGS, "where_in_training", "commit")
BATCH, RATE, TEST = 64, 5e-4, 500  # of the demo: pairs, learning rate, held-out photos
AT_ONCE = 250


class Part(NamedTuple):
    """A split of the demo world, without its pixels."""

    entries: list[Entry]
    captions: list[Caption]
    owners: np.ndarray  # [captions]

    @classmethod
    def of(cls, split: str, photos: int) -> Part:
        entries = split_entries(Random(f"0 {split}"), split, photos)
        captions = [said for entry in entries for said in entry.captions]
        owners = np.repeat(np.arange(len(entries)), [len(entry.captions) for entry in entries])
        return cls(entries, captions, owners)

    @property
    def ids(self) -> list[str]:
        return [entry.name for entry in self.entries]


class Sides(NamedTuple):
    images: nn.Module
    texts: nn.Module


def sides(asked: argparse.Namespace, part: Part, split: str, known: Part) -> Sides:
    scenes = [entry.scene for entry in part.entries]
    exact = asked.image == "exact"
    images = ExactImages(scenes) if exact else Regions(regions(asked.shards, split, part.ids), asked.image)
    if asked.text == "exact":
        return Sides(images, ExactClaims(part.captions, known.captions))
    return Sides(images, Sentences(part.captions, asked.text))


def train(made: Sides, part: Part, epochs: int, seed: int) -> int:
    """The demo's recipe: the hardest negatives from the middle on, and a tenth of the rate in the last quarter."""
    draw, both = np.random.default_rng(seed), nn.ModuleList(made)
    optimizer = torch.optim.AdamW(both.parameters(), lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [max(1, epochs * 3 // 4)], gamma=0.1)
    loss, steps = TripletLoss(warm_up_epochs=epochs / 2, mask_same_image=True), len(part.captions) // BATCH
    for epoch in range(epochs):
        for rows in draw.permutation(len(part.captions))[: steps * BATCH].reshape(steps, BATCH):
            owners = part.owners[rows]
            pairs = made.images(owners), made.texts(rows)
            optimizer.zero_grad()
            loss(*pairs, torch.from_numpy(owners), epoch)["loss"].backward()
            clip_grad_norm_(both.parameters(), 2.0)
            optimizer.step()
        schedule.step()
    return epochs * steps


@torch.inference_mode()
def scores(made: Sides, part: Part) -> dict[str, float]:
    nn.ModuleList(made).eval()
    counts = len(part.entries), len(part.captions)
    similarity = EmbeddingSimilarity(
        *(
            torch.cat([side(rows) for rows in np.array_split(np.arange(count), count // AT_ONCE + 1)])
            for side, count in zip(made, counts, strict=True)
        )
    )
    answers = told_apart(similarity, part.owners, twins(part.ids))
    by_tag = pair_accuracy(answers, [said.tag for said in part.captions])
    return {"rsum": recall(similarity, part.owners)["rsum"]} | {tag: by_tag[tag] for tag in TAGS}


def row(asked: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(asked.seed)
    known, unseen = Part.of("train", asked.photos), Part.of("test", TEST)
    made = sides(asked, known, "train", known)
    steps = train(made, known, asked.epochs, asked.seed)
    scored = sides(asked, unseen, "test", known)
    for trained, tested in zip(made, scored, strict=True):
        tested.load_state_dict(trained.state_dict())
    found = scores(scored, unseen) | {"where_in_training": scores(made, known)["where"]}
    found = {name: f"{value:.1f}" for name, value in found.items()}
    return {name: str(getattr(asked, name)) for name in KEY} | found | {"steps": steps, "commit": current_commit()}


def keep(file: Path, new: dict[str, Any]) -> None:
    """Add a row; one of the same settings is replaced."""
    others = [old for old in (read_rows(file) if file.is_file() else []) if any(old[name] != new[name] for name in KEY)]
    write_rows(file, COLUMNS, sorted([*others, new], key=lambda row: [row[name].rjust(9) for name in KEY]))


def draw(file: Path) -> None:
    """*Where* by the number of training photos, a line for each pair of sides."""
    rows = read_rows(file)
    figure = Figure(figsize=(8, 3.6), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for image, text in dict.fromkeys((row["image"], row["text"]) for row in rows):
        some = [row for row in rows if (row["image"], row["text"]) == (image, text)]
        photos = sorted({int(row["photos"]) for row in some})
        means = [np.mean([float(row["where"]) for row in some if int(row["photos"]) == count]) for count in photos]
        axes.plot(photos, means, marker="o", label=f"images: {image}, sentences: {text}")
    axes.axhline(50, color="gray", linestyle="dotted")
    axes.axhline(75, color="gray", linestyle="dashed")
    axes.set(xlabel="training photos", ylabel="right twin by where, %")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    write_figure(figure, file.with_name("figure.png"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", choices=["exact", *BOXES], default="exact")
    parser.add_argument("--text", choices=["exact", "bert", "bigru", "convolution"], default="exact")
    parser.add_argument("--photos", type=int, default=800, help="to train on")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", type=Path, help="of a demo world with so many training photos, for regions")
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--figure", action="store_true", help="draw the figure and train nothing")
    asked = parser.parse_args(arguments)
    if asked.figure:
        draw(asked.out)
        return
    if asked.image != "exact" and not asked.shards:
        parser.error(f"--image {asked.image} reads --shards")
    new = row(asked)
    keep(asked.out, new)
    print(", ".join(f"{name} {value}" for name, value in new.items()))


if __name__ == "__main__":
    main()
