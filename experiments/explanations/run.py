"""Are the explanations true: python -m experiments.explanations.run <runs> --shards data/shards/demo --split dev

Every run becomes rows of results.csv, one a way to rank the places of a photo (`WAYS`). Two tests:

1. The three places named first are left out of the pooled set. Their cost in similarity, beside three random ones.
2. *What* captions of the demo: the place named first lies on a thing that the sentence names, by the renderer's masks.
   A place lies on a thing that covers a tenth of it. Chance is a random place.

With --pixels, pixels.csv has the first test once more for some photos, on the photo itself: the pixels of the places
become the photo's mean colour and their segmentation void, and everything is extracted anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from experiments.explanations.things import DemoScenes, Objects, lies_on
from PIL import Image
from torch import Tensor

import threeshnet
from threeshnet.batches.collate import collate_images
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
from threeshnet.explanations.explanation import pixels
from threeshnet.explanations.places import TokensOfPhoto, tokens_of
from threeshnet.files import read_rows, write_rows
from threeshnet.installation import current_commit
from threeshnet.nn.masking import unit
from threeshnet.records import VOID
from threeshnet.runs.run import Run
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.checkpoint import checkpoint_hash, read_checkpoint

FILE = Path(__file__).resolve().with_name("results.csv")
WAYS = ("deletion", "share", "share from mean", "gradient x input", "VSeM weight", "random")
PIXELS, BLANKED = "pixels.csv", 8  # random sets of a photo
COLUMNS_OF_PIXELS = (
    *("data", "experiment", "seed", "split", "photos", "cost_named", "cost_random", "change_random", "ratio"),
    *("area_named", "area_random", "checkpoint", "commit"),
)
COLUMNS_OF_ROWS = (
    *("data", "experiment", "seed", "rsum", "split", "way", "photos", "captions", "cost_named", "cost_random"),
    *("change_random", "ratio", "beaten", "passed", "what_captions", "on_named", "chance_named", "on_different"),
    *("chance_different", "on_named_passed", "on_named_failed", "checkpoint", "commit"),
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


# ---- rows


class Outcome(NamedTuple):
    """Of one caption and one way; the last four are not a number where no object is asked for."""

    named: float
    random: float
    beaten: float
    change: float  # mean absolute cost of the draws
    passed: float
    on_named: float = np.nan
    chance_named: float = np.nan
    on_different: float = np.nan
    chance_different: float = np.nan


def rows_of(checkpoint: Path, split: ShardedSplit, photos: int, known: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each way, over the first caption of each photo and every *what* caption."""
    model: Any = threeshnet.load_model(checkpoint)
    fields = read_checkpoint(checkpoint)["threeshnet"]["fields"]
    numbers = np.unique(np.linspace(0, split.images - 1, num=min(photos, split.images), dtype=int)).tolist()
    raw = split.image_path(0).parent.parent
    scenes = DemoScenes(raw) if (raw / "dataset_demo.json").is_file() else None
    outcomes: dict[str, list[Outcome]] = {way: [] for way in WAYS}
    for number in numbers:
        tokens = tokens_of(model, collate_images(split.read([number], fields)))
        first, *others = np.flatnonzero(split.owners == number).tolist()
        for caption in [first, *(other for other in others if split.caption_tags[other] == "what")]:
            (text,) = model.encode_texts([split.caption_texts[caption]])
            found = contributions(tokens, text, seed=number)
            orders = {way: ranked(tokens, found[way]) for way in WAYS}
            asked = scenes is not None and split.caption_tags[caption] == "what"
            said = split.image_ids[number], split.caption_texts[caption]
            objects = scenes.objects(*said) if asked and scenes else None
            for way, outcome in outcomes_of(tokens, text, orders, objects, seed=number):
                outcomes[way].append(outcome)
    return [row(known, way, outcomes[way]) | {"photos": len(numbers)} for way in WAYS]


def outcomes_of(
    tokens: TokensOfPhoto, text: Tensor, orders: Mapping[str, list[int]], objects: Objects | None, seed: int
) -> Iterator[tuple[str, Outcome]]:
    """Of every way, beside the same random places; chance is the share of all places that lie on an object."""
    named = costs(tokens, text, [order[:NAMED] for order in orders.values()]).tolist()
    random = costs(tokens, text, random_places(orders["random"], seed)).tolist()
    for (way, order), cost in zip(orders.items(), named, strict=True):
        test = DeletionTest.of(cost, random)
        on = [[lies_on(tokens.places[place], mask) for place in order] for mask in objects or ()]
        yield (
            way,
            Outcome(
                *test,
                float(np.abs(random).mean()),
                test.passed,
                *(float(x) for hits in on for x in (hits[0], np.mean(hits))),
            ),
        )


def row(known: Mapping[str, Any], way: str, outcomes: list[Outcome]) -> dict[str, Any]:
    """Means over the captions; percent of those that were asked for an object."""
    values = np.array(outcomes, dtype=float)
    mean = Outcome(*values.mean(axis=0))
    made: dict[str, Any] = {**known, "way": way, "captions": len(values)}
    made |= {"cost_named": f"{mean.named:.5f}", "cost_random": f"{mean.random:.5f}"}
    made |= {"change_random": f"{mean.change:.5f}", "ratio": f"{mean.named / mean.change:.2f}"}
    made |= {"beaten": f"{100 * mean.beaten:.1f}", "passed": f"{100 * mean.passed:.1f}"}
    asked = values[~np.isnan(values[:, -1])]
    if len(asked):
        percent = Outcome(*100 * asked.mean(axis=0))
        made |= {name: f"{getattr(percent, name):.1f}" for name in Outcome._fields[-4:]} | {"what_captions": len(asked)}
        by_test = {name: asked[asked[:, 4] == passed, 5] for name, passed in (("passed", 1), ("failed", 0))}
        made |= {f"on_named_{name}": f"{100 * hits.mean():.1f}" for name, hits in by_test.items() if len(hits)}
    return made


# ---- the same test on the pixels


def pixel_row(checkpoint: Path, split: ShardedSplit, photos: int, known: Mapping[str, Any]) -> dict[str, Any]:
    """What blanking the places named first costs, beside random ones, and how much of the photo is blank."""
    retriever = threeshnet.Retriever.load(checkpoint, device="cpu")
    costs_of, areas_of = [], []
    for number in np.unique(np.linspace(0, split.images - 1, num=photos, dtype=int)).tolist():
        file = split.image_path(number)
        mask = file.parent.parent / "segmentation" / f"{file.stem}.png"
        (text,) = retriever.encode_texts([split.caption_texts[int(np.flatnonzero(split.owners == number)[0])]])
        (images,) = retriever.image_batches([file], masks=[mask] if mask.is_file() else None)
        tokens = tokens_of(retriever.model, images)
        order = ranked(tokens, effects(tokens, text)[1])
        sets = [[], order[:NAMED], *random_places(order, seed=number)[:BLANKED]]
        boxes = [[tokens.places[place].box for place in places] for places in sets]
        with TemporaryDirectory() as folder:
            blanks = [blanked(file, mask, some, Path(folder) / f"{n}.png") for n, some in enumerate(boxes)]
            masks = [Path(folder) / f"{n}.png" for n in range(len(sets))] if mask.is_file() else None
            similarity = retriever.encode_photos([photo for photo, _ in blanks], masks=masks) @ text
        costs_of.append((similarity[0] - similarity[1:]).tolist())
        areas_of.append([area for _, area in blanks[1:]])
    cost, area = np.array(costs_of), np.array(areas_of)
    change = np.abs(cost[:, 1:]).mean()
    found = {"cost_named": cost[:, 0].mean(), "cost_random": cost[:, 1:].mean()}
    found |= {"change_random": change, "ratio": found["cost_named"] / change}
    found |= {"area_named": area[:, 0].mean(), "area_random": area[:, 1:].mean()}
    return {**known, "photos": len(cost)} | {name: f"{value:.4f}" for name, value in found.items()}


def blanked(file: Path, mask: Path, boxes: Sequence[Any], mask_out: Path) -> tuple[Image.Image, float]:
    """The photo with its mean colour in the boxes, and the share of it that is blank; its mask goes to a file."""
    photo = np.array(Image.open(file).convert("RGB"))
    classes = np.array(Image.open(mask)) if mask.is_file() else np.zeros(photo.shape[:2], np.uint8)
    blank = np.zeros(photo.shape[:2], bool)
    for box in boxes:
        blank[pixels(box, (photo.shape[1], photo.shape[0]))] = True
    photo[blank] = photo.reshape(-1, 3).mean(axis=0)
    classes[blank] = VOID
    Image.fromarray(classes).save(mask_out)
    return Image.fromarray(photo), float(blank.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories")
    parser.add_argument("--shards", required=True, type=Path)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--photos", type=int, default=200, help="spread evenly over the split")
    parser.add_argument("--pixels", type=int, default=0, help="photos of the test on pixels; 0 leaves it out")
    parser.add_argument("--out", type=Path, default=FILE)
    asked = parser.parse_args()
    split = ShardedSplit(asked.shards, asked.split)
    for folder in asked.runs:
        checkpoint = Run(folder).selected("best")[1]
        facts = read_checkpoint(checkpoint)["threeshnet"]["run"]
        known = {"data": split.manifest.dataset, "experiment": facts["experiment"], "seed": facts["seed"]}
        known |= {"split": asked.split, "checkpoint": checkpoint_hash(checkpoint), "commit": current_commit()}
        rows, rsum = rows_of(checkpoint, split, asked.photos, known), Run(folder).find_metrics().get("rsum")
        rsum = "" if rsum is None else f"{rsum:.1f}"  # of the held-out split, once the run has ended
        keep(asked.out, COLUMNS_OF_ROWS, [row | {"rsum": rsum} for row in rows])
        if asked.pixels:
            keep(asked.out.with_name(PIXELS), COLUMNS_OF_PIXELS, [pixel_row(checkpoint, split, asked.pixels, known)])
    print(asked.out.read_text(encoding="utf-8"))


def keep(file: Path, columns: Sequence[str], rows: list[dict[str, Any]]) -> None:
    """Add rows to those of a file; rows of the same model and split are replaced."""

    def key(row: Mapping[str, Any]) -> list[str]:
        return [str(row[name]) for name in ("data", "experiment", "seed", "split")]

    new = [key(row) for row in rows]
    write_rows(file, columns, sorted([*(row for row in read_rows(file) if key(row) not in new), *rows], key=key))


if __name__ == "__main__":
    main()
