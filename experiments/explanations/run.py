"""Are the explanations true: python experiments/explanations/run.py <run folders> --shards data/shards/demo --split dev

Every run becomes rows of results.csv, one a way to rank the places of a photo (`WAYS`). Two tests:

1. The three places named first are left out of the pooled set. Their cost in similarity, beside three random ones.
2. On the demo, *what* captions: the place named first lies on an object that the sentence names. The renderer's masks
   say so. A place lies on an object that covers a tenth of it. Chance is a random place.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import threeshnet
from threeshnet.batches.collate import collate_images
from threeshnet.demo.classes import CLASSES, COLUMNS, ROWS
from threeshnet.demo.words import NOUNS
from threeshnet.encoders.hybrid import joined
from threeshnet.explanations.contributions import (
    NAMED,
    DeletionTest,
    by_place,
    costs,
    effects,
    random_places,
    ranked,
    shares,
    weighted_values,
)
from threeshnet.explanations.places import PHOTO, Place, TokensOfPhoto, tokens_of
from threeshnet.files import write_rows
from threeshnet.installation import current_commit
from threeshnet.nn.masking import unit
from threeshnet.runs.run import Run
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.checkpoint import checkpoint_hash, read_checkpoint

HERE = Path(__file__).resolve().parent
FILE = "results.csv"
COVERED = 0.1  # of a place, by the object that it lies on
ACROSS, DOWN = (76, 148), (78, 142)  # pixels between the columns and rows of the demo's places (demo/render.py)
WAYS = ("deletion", "share", "share from mean", "gradient x input", "VSeM weight", "random")
COLUMNS_OF_ROWS = (
    *(
        "data",
        "experiment",
        "seed",
        "split",
        "way",
        "photos",
        "cost_named",
        "cost_random",
        "change_random",
        "ratio",
        "passed",
    ),
    *("what_captions", "on_named", "chance_named", "on_different", "chance_different", "checkpoint", "commit"),
)


# ---- ways to rank the places


def contributions(tokens: TokensOfPhoto, text: Tensor, seed: int) -> dict[str, Tensor]:
    """What each place [places] contributes, by the name of the way."""
    products, from_mean = [], []
    for branch, (values, held), gradient in zip(
        tokens.branches, weighted_values(tokens, text), gradients(tokens, text), strict=True
    ):
        from_mean.append(((values - values[branch.tokens.mask[0]].mean(dim=0)) * held).sum(dim=-1))
        products.append((values * gradient).sum(dim=-1))
    return {
        "deletion": effects(tokens, text)[1],
        "share": by_place(tokens, shares(tokens, text)),
        "share from mean": by_place(tokens, from_mean),
        "gradient x input": by_place(tokens, products),
        "VSeM weight": weights(tokens),
        "random": torch.rand(len(tokens.places), generator=torch.Generator().manual_seed(seed)),
    }


def gradients(tokens: TokensOfPhoto, text: Tensor) -> list[Tensor]:
    """The gradient [N, D] of the similarity at the tokens of every branch, through the lengths too."""
    with torch.enable_grad():
        values = [branch.tokens.values.detach().clone().requires_grad_() for branch in tokens.branches]
        pairs = zip(tokens.branches, values, strict=True)
        vectors = [unit(branch.pooling(branch.tokens._replace(values=value))) for branch, value in pairs]
        embedding = joined(vectors) if len(vectors) > 1 else vectors[0]
        return [gradient[0] for gradient in torch.autograd.grad(embedding[0] @ text, values)]


def weights(tokens: TokensOfPhoto) -> Tensor:
    """VSeM's weight of each place; a place without one, such as a scene cell, comes last."""
    found = torch.zeros(len(tokens.places))
    for branch in tokens.branches:
        if branch.semantic is not None:
            found[branch.own_places] = branch.semantic.float()
    return found


# ---- the objects of the demo


class Objects(NamedTuple):
    """Masks [224, 224] of what a *what* caption asks for."""

    named: np.ndarray  # every thing that the sentence names
    different: np.ndarray  # the one that the twin lacks


class DemoScenes:
    """The scenes of a rendered world, by the id of the photo."""

    def __init__(self, raw: Path) -> None:
        self.raw = raw
        images = json.loads((raw / "dataset_demo.json").read_text(encoding="utf-8"))["images"]
        self.images: Mapping[str, Any] = {Path(image["filename"]).stem: image for image in images}

    def objects(self, photo: str, caption: str) -> Objects:
        image = self.images[photo]
        things, twins = image["scene"]["things"], self.images[image["twin"]]["scene"]["things"]
        named = [thing for thing in things if self._says(caption, thing["name"])]
        return Objects(self._mask(photo, named), self._mask(photo, [t for t in things if t not in twins]))

    @staticmethod
    def _says(caption: str, name: str) -> bool:
        return bool(set(re.findall(r"\w+", caption)) & set(NOUNS.get(name, (name,))))

    def _mask(self, photo: str, things: list[Mapping[str, Any]]) -> np.ndarray:
        """The pixels of things: of their class, at their place."""
        classes = np.asarray(Image.open(self.raw / "segmentation" / f"{photo}.png"))
        y, x = np.indices(classes.shape)
        column, row = np.digitize(x, ACROSS), np.digitize(y, DOWN)
        mask = np.zeros(classes.shape, bool)
        for thing in things:
            here = (column == COLUMNS.index(thing["column"])) & (row == ROWS.index(thing["row"]))
            mask |= here & (classes == CLASSES.index(thing["name"]))
        return mask


def lies_on(place: Place, mask: np.ndarray) -> bool:
    """Whether a tenth of a place is the object; never of the whole photo."""
    if place.box is None or place.kind == PHOTO:
        return False
    height, width = mask.shape
    x1, y1, x2, y2 = (np.array(place.box) * (width, height, width, height)).round().astype(int)
    return bool(mask[y1:y2, x1:x2].mean() >= COVERED) if x2 > x1 and y2 > y1 else False


# ---- rows


def rows_of(checkpoint: Path, split: ShardedSplit, photos: int, known: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each way."""
    model: Any = threeshnet.load_model(checkpoint)
    fields = read_checkpoint(checkpoint)["threeshnet"]["fields"]
    numbers = np.unique(np.linspace(0, split.images - 1, num=min(photos, split.images), dtype=int)).tolist()
    raw = split.image_path(0).parent.parent
    scenes = DemoScenes(raw) if (raw / "dataset_demo.json").is_file() else None
    tested: dict[str, list[DeletionTest]] = {way: [] for way in WAYS}
    pointed: dict[str, list[tuple[bool, float, bool, float]]] = {way: [] for way in WAYS}
    for number in numbers:
        tokens = tokens_of(model, collate_images(split.read([number], fields)))
        own = np.flatnonzero(split.owners == number).tolist()
        texts = model.encode_texts([split.caption_texts[caption] for caption in own])
        for position, (caption, text) in enumerate(zip(own, texts, strict=True)):
            asked = split.caption_tags[caption] == "what" and scenes is not None
            if position and not asked:  # one caption of a photo is left out and tested, each *what* caption is pointed
                continue
            found = contributions(tokens, text, seed=number)
            orders = {way: ranked(tokens, found[way]) for way in WAYS}
            if position == 0:
                for way, test in deletion_tests(tokens, text, orders, seed=number):
                    tested[way].append(test)
            if asked and scenes is not None:
                objects = scenes.objects(split.image_ids[number], split.caption_texts[caption])
                for way, answer in pointing(tokens, orders, objects):
                    pointed[way].append(answer)
    return [row(known, way, tested[way], pointed[way]) for way in WAYS]


def deletion_tests(
    tokens: TokensOfPhoto, text: Tensor, orders: Mapping[str, list[int]], seed: int
) -> Iterator[tuple[str, DeletionTest]]:
    """The test of each way, beside the same random places."""
    named = costs(tokens, text, [order[:NAMED] for order in orders.values()]).tolist()
    random = costs(tokens, text, random_places(orders["random"], seed))
    for way, cost in zip(orders, named, strict=True):
        yield way, DeletionTest(cost, float(random.mean()), float(random.abs().mean()))


def pointing(
    tokens: TokensOfPhoto, orders: Mapping[str, list[int]], objects: Objects
) -> Iterator[tuple[str, tuple[bool, float, bool, float]]]:
    """For each way: whether its first place lies on a named object, the chance that one does; of the different one."""
    on_named = {place: lies_on(tokens.places[place], objects.named) for place in orders["random"]}
    on_different = {place: lies_on(tokens.places[place], objects.different) for place in orders["random"]}
    chances = float(np.mean(list(on_named.values()))), float(np.mean(list(on_different.values())))
    for way, order in orders.items():
        yield way, (on_named[order[0]], chances[0], on_different[order[0]], chances[1])


def row(
    known: Mapping[str, Any], way: str, tested: list[DeletionTest], pointed: list[tuple[Any, ...]]
) -> dict[str, Any]:
    cost, random, change = np.mean(tested, axis=0)
    made: dict[str, Any] = {**known, "way": way, "photos": len(tested)}
    made |= {"cost_named": f"{cost:.5f}", "cost_random": f"{random:.5f}", "change_random": f"{change:.5f}"}
    made |= {"ratio": f"{cost / change:.2f}", "passed": f"{100 * np.mean([test.passed for test in tested]):.1f}"}
    if pointed:
        values = 100 * np.mean(np.array(pointed, dtype=float), axis=0)
        keys = ("on_named", "chance_named", "on_different", "chance_different")
        made |= {"what_captions": len(pointed)} | {key: f"{value:.1f}" for key, value in zip(keys, values, strict=True)}
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories")
    parser.add_argument("--shards", required=True, type=Path)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--photos", type=int, default=200, help="spread evenly over the split")
    parser.add_argument("--out", type=Path, default=HERE / FILE)
    asked = parser.parse_args()
    split = ShardedSplit(asked.shards, asked.split)
    rows = []
    for folder in asked.runs:
        checkpoint = Run(folder).selected("best")[1]
        facts = read_checkpoint(checkpoint)["threeshnet"]["run"]
        known = {"data": split.manifest.dataset, "experiment": facts["experiment"], "seed": facts["seed"]}
        known |= {"split": asked.split, "checkpoint": checkpoint_hash(checkpoint), "commit": current_commit()}
        rows += rows_of(checkpoint, split, asked.photos, known)
        write_rows(asked.out, COLUMNS_OF_ROWS, rows)
    print(asked.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
