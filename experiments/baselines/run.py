"""Floors: what chance and a bag of words reach on a split, by the protocol that everything else is scored by.

    python experiments/baselines/run.py --shards data/shards/flickr8k [--train train --dev dev --split test]

Rows go to results.csv (one a data set, split and baseline; measured again they are replaced), and the table in
README.md is rebuilt from that file. zero_shot.py beside this file adds its rows in the same way.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from threeshnet.files import write_rows
from threeshnet.installation import current_commit
from threeshnet.metrics.protocols import Scored, rank, recall_by
from threeshnet.metrics.similarity import EmbeddingSimilarity
from threeshnet.runs.facts import machine
from threeshnet.runs.identity import data_fingerprint
from threeshnet.shards.reader import ShardedSplit

HERE = Path(__file__).parent
RECALLS = [f"{side}_{name}" for side in ("i2t", "t2i") for name in ("R@1", "R@5", "R@10")]
COLUMNS = ["data", "split", "images", "captions", "protocol", "baseline", "seed", *RECALLS, "rsum", "commit"]
COLUMNS += ["machine", "fingerprint", "selection", "reason"]  # blank where it is not known, or there is none
ZERO_SHOT = "zero-shot "  # what the name of such a baseline starts with
CHOSEN = "rsum on dev"  # how the penalty of the bag of words is selected
PENALTIES = tuple(10.0**power for power in range(6))  # of the ridge, chosen on the dev split
RAREST = 5  # training captions that a word of the vocabulary is in, at least
AT_ONCE = 500  # images


def chance(images: int, owners: np.ndarray) -> dict[str, float]:
    """Recalls in percent of a random order, exactly: without replacement, an image is found by the first of its own.

    >>> {name: round(value, 3) for name, value in chance(2, np.array([0, 1])).items() if name.endswith("R@1")}
    {'i2t_R@1': 50.0, 't2i_R@1': 50.0}
    """
    captions, own = len(owners), np.bincount(owners, minlength=images).tolist()
    found: dict[str, float] = {}
    for k in (1, 5, 10):
        missed = [math.comb(captions - mine, min(k, captions)) / math.comb(captions, min(k, captions)) for mine in own]
        found[f"i2t_R@{k}"] = 100 * (1 - sum(missed) / images)
        found[f"t2i_R@{k}"] = 100 * min(k, images) / images
    return found | {"rsum": sum(found.values())}


def scored_of(split: ShardedSplit) -> Scored:
    return Scored(split.manifest.dataset, split.name, split.images, split.owners)


def scores(images: Tensor, captions: Tensor, scored: Scored) -> dict[str, float]:
    """Recalls of embeddings [images, D] and [captions, D], of any length, by the protocol `full`."""
    unit = [torch.nn.functional.normalize(side.float(), dim=1) for side in (images, captions)]
    recall = recall_by("full", rank("full", [EmbeddingSimilarity(*unit)], scored), scored)
    sides = {"i2t": recall["i2t"], "t2i": recall["t2i"]}
    return {name: sides[name[:3]][name[4:]] for name in RECALLS} | {"rsum": recall["rsum"]}


def simulated(split: ShardedSplit, seed: int) -> dict[str, float]:
    """Recalls of random embeddings: what `chance` says, but for the luck of the draw."""
    draw = torch.Generator().manual_seed(seed)
    images, captions = (torch.randn(size, 64, generator=draw) for size in (split.images, split.captions))
    return scores(images, captions, scored_of(split))


# ---- a bag of words


class Words:
    """Captions as tf-idf vectors over the words of the training captions."""

    def __init__(self, captions: Sequence[str]) -> None:
        within = Counter(word for caption in captions for word in set(words_of(caption)))
        self.number = {word: place for place, word in enumerate(w for w in sorted(within) if within[w] >= RAREST)}
        self.rarity = torch.tensor([math.log(len(captions) / within[word]) for word in self.number])

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """[captions, words], unit length."""
        counts = torch.zeros(len(captions), len(self.number))
        for row, caption in enumerate(captions):
            for word in words_of(caption):
                if word in self.number:
                    counts[row, self.number[word]] += 1
        return torch.nn.functional.normalize(counts * self.rarity, dim=1)


def words_of(caption: str) -> list[str]:
    return "".join(letter if letter.isalnum() else " " for letter in caption.lower()).split()


def features(split: ShardedSplit) -> Tensor:
    """The mean grid cell of every image, [images, Dg], float64."""
    blocks = np.array_split(np.arange(split.images), -(-split.images // AT_ONCE))
    grids = (split.read(numbers, ["grid"]).grid for numbers in blocks)
    return torch.cat(
        [torch.from_numpy(grid.astype(np.float32).mean(axis=1)).double() for grid in grids if grid is not None]
    )


def ridge(inputs: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """Weights [inputs, outputs] of the least squares with a penalty on their squares."""
    eye = torch.eye(inputs.shape[1], dtype=inputs.dtype)
    return torch.linalg.solve(inputs.T @ inputs + penalty * eye, inputs.T @ targets)


def bag_of_words(train: ShardedSplit, dev: ShardedSplit, held_out: ShardedSplit) -> tuple[dict[str, float], float]:
    """Mean features to the mean tf-idf of an image's captions by ridge; scores on `held_out`, and the penalty."""
    words = Words(train.caption_texts)
    sentences = words(train.caption_texts).double()
    owners = torch.from_numpy(train.owners).long()
    targets = torch.zeros(train.images, sentences.shape[1], dtype=torch.float64).index_add(0, owners, sentences)
    targets = targets / owners.bincount(minlength=train.images).clamp(min=1).unsqueeze(1)
    inputs = features(train)
    mean, deviation = inputs.mean(dim=0), inputs.std(dim=0).clamp(min=1e-6)
    centre = targets.mean(dim=0)

    def scored(split: ShardedSplit, weights: Tensor) -> dict[str, float]:
        images = (features(split) - mean) / deviation @ weights + centre
        return scores(images, words(split.caption_texts), scored_of(split))

    fitted = {each: ridge((inputs - mean) / deviation, targets - centre, each) for each in PENALTIES}
    best = max(PENALTIES, key=lambda each: scored(dev, fitted[each])["rsum"])
    return scored(held_out, fitted[best]), best


# ---- rows and table


def facts_of(scored: Scored) -> dict[str, object]:
    """What a row says beside its baseline, seed and recalls: every column, those that others fill in blank."""
    counts = {"images": scored.images, "captions": len(scored.owner)}
    known = {"data": scored.data, "split": scored.split, **counts, "protocol": "full", "commit": current_commit()}
    blank: dict[str, object] = dict.fromkeys(COLUMNS, "")
    return blank | known


def as_text(numbers: dict[str, float]) -> dict[str, object]:
    return {key: f"{value:.2f}" for key, value in numbers.items()}


def measure(folder: Path, train: str, dev: str, name: str) -> list[dict[str, object]]:
    split = ShardedSplit(folder, name)
    facts = facts_of(scored_of(split)) | {"machine": machine(), "fingerprint": data_fingerprint(split.manifest)}
    floor, penalty = bag_of_words(ShardedSplit(folder, train), ShardedSplit(folder, dev), split)
    found = [("chance, by formula", "", "", chance(split.images, split.owners))]
    found += [("chance, simulated", str(seed), "", simulated(split, seed)) for seed in (0, 1, 2)]
    found += [(f"bag of words (ridge {penalty:g}, mean grid cell)", "", CHOSEN, floor)]
    return [
        facts | {"baseline": baseline, "seed": seed, "selection": selection} | as_text(numbers)
        for baseline, seed, selection, numbers in found
    ]


def place(row: dict[str, str]) -> tuple[str, str, str]:
    """What rows share that are measured together: the floors of a split, or one zero-shot model on it.

    The name of a floor says its penalty, which may be another one the next time.
    """
    baseline = row["baseline"]
    return row["data"], row["split"], baseline if baseline.startswith(ZERO_SHOT) else "floors"


def write(rows: list[dict[str, object]], file: Path) -> list[dict[str, str]]:
    """Puts the rows in place of those that they measure again; one that was not run leaves a measured one alone."""
    kept: list[dict[str, str]] = []
    if file.exists():
        with file.open(encoding="utf-8", newline="") as opened:
            kept = [dict.fromkeys(COLUMNS, "") | row for row in csv.DictReader(opened)]
    measured = {place(row) for row in kept if row["rsum"]}
    new = [{key: str(value) for key, value in row.items()} for row in rows]
    new = [row for row in new if row["rsum"] or place(row) not in measured]
    replaced = {place(row) for row in new}
    everything = [row for row in kept if place(row) not in replaced] + new
    everything.sort(key=lambda row: (row["data"], row["split"], row["baseline"].startswith(ZERO_SHOT)))
    write_rows(file, COLUMNS, everything)
    return everything


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True, help="folder of a data set's shards, with a grid")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.csv")
    for name, default in (("train", "train"), ("dev", "dev"), ("split", "test")):
        parser.add_argument(f"--{name}", default=default)
    asked = parser.parse_args()
    write(measure(asked.shards, asked.train, asked.dev, asked.split), asked.out / "results.csv")


if __name__ == "__main__":
    main()
