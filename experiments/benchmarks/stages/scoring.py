"""Stages after training: a split from shards to recalls, ranking, confidence intervals, a page of results."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from threeshnet.batches.datamodule import BatchOptions, RetrievalDataModule, Splits
from threeshnet.cli.door import settings_of
from threeshnet.evaluation.evaluate import LoadedModel, encode
from threeshnet.evaluation.scores import scores_of
from threeshnet.metrics.intervals import LEVEL, bootstrap_recalls
from threeshnet.metrics.low_precision import precisions_of
from threeshnet.metrics.ranks import BLOCK_CELLS, Ranks, rank_similarity
from threeshnet.metrics.recalls import CUTOFFS, recall_of_ranks
from threeshnet.metrics.similarity import tiles
from threeshnet.reports.pages import Rows, rendered

from ..common import ROOT, composed
from ..protocols.coco_size import plain_embeddings, plain_recall
from ..protocols.large import made_up as near_each_other
from .data import silent
from .made_up import SETTINGS, SPLIT, models, shards
from .stage import Case, Stage, World, products

GALLERIES = {"1,000 x 5,000": (1_000, 5_000), "5,000 x 25,000": (5_000, 25_000)}
SORTED = 10_000  # captions of the largest gallery in which the twin sorts
ONE_RANK = 0.02  # of recalls: in float32 a near tie may fall the other way


def evaluation(world: World, name: str) -> Case:
    """Shards to recalls; the twin encodes an image for each of its captions and sorts for every query."""
    setting, images = world.settings[name], world.count(128, 12)
    if name == "coco" and not world.quick:
        setting = setting._replace(dim=256, text="tiny")  # as `protocols.coco_size`; else the twin takes minutes
    split, model = shards(setting, world.folder / f"evaluation_{name}", images), models(setting).ours.eval()
    data = RetrievalDataModule(
        split.folder,
        tokenizer=model.tokenizer,
        fields=setting.fields,
        splits=Splits(train=(), dev=None, test=SPLIT),
        batches=BatchOptions(evaluation_batch_size=setting.batch),
    )
    precision = "32-true" if world.precision == torch.float32 else "bf16-mixed"
    words = [f"shards={split.folder}", "checkpoint=none", "accelerator=cpu", f"precision={precision}"]
    asked: Any = settings_of("evaluate", composed(*words, command="evaluate"), words)

    def ours() -> Any:
        with silent():
            sides = encode(asked, LoadedModel(model, data, split, {}))
        return list(sides), scores_of("full", [sides], split).metrics["rsum"]

    def naive() -> Any:
        with torch.inference_mode():
            sides = plain_embeddings(model, split, setting.fields, np.arange(split.captions), setting.batch)
        return list(sides), plain_recall(sides[0], sides[1], split.owners)["rsum"]

    def same() -> Any:  # the recalls of random weights turn on near ties
        return ours()[0], naive()[0]

    return Case(images, ours, naive, products(ours), "products", 1e-3, same, lower=True)


def ranking(world: World, name: str, *, precisions: Sequence[torch.dtype] | None = None) -> Case:
    """Embeddings to recalls in both directions; None takes the precisions of this machine.

    The twin sorts for every query; in the larger gallery it is float64.
    """
    images, captions = (30, 150) if world.quick else GALLERIES[name]
    source, owner = near_each_other(Namespace(images=images, captions=captions, dim=256, signal=0.3, seed=0))
    precisions = precisions_of(source) if precisions is None else precisions
    dtype = [*precisions, torch.float64][0]  # the lowest that ranking takes
    rows, columns = source.image_embeddings.to(dtype), source.caption_embeddings.to(dtype)
    parts = list(tiles(images, captions, BLOCK_CELLS))

    def sorting() -> np.ndarray:
        photos, sentences = (side.float().numpy() for side in (source.image_embeddings, source.caption_embeddings))
        return np.array(list(plain_recall(photos, sentences, owner.numpy()).values()))

    def double() -> np.ndarray:
        return recalls(rank_similarity(source, owner, precisions=[]))

    def floor() -> None:
        for image, caption in parts:
            torch.mm(rows[image], columns[caption].T)

    twin, tolerance = (sorting, ONE_RANK) if captions < SORTED else (double, 0.0)
    ours = lambda: recalls(rank_similarity(source, owner, precisions=precisions))  # noqa: E731
    return Case(images + captions, ours, twin, floor, "products", tolerance)


def recalls(ranks: Ranks) -> np.ndarray:
    """Six recalls and their sum."""
    found: Any = recall_of_ranks(ranks)
    return np.array([*(found[side][f"R@{k}"] for side in ("i2t", "t2i") for k in CUTOFFS), found["rsum"]])


def bootstrap(world: World, _: str) -> Case:
    """Ranks to 95% confidence intervals; the twin takes draw by draw, the floor draws the images."""
    images, draws = world.count(1_000, 20), world.count(2_000, 10)
    draw, owner = np.random.default_rng(0), np.repeat(np.arange(images), 5)
    ranks = Ranks(*(torch.from_numpy(draw.geometric(0.2, size)) for size in (images, len(owner))))

    def ours() -> np.ndarray:
        found = bootstrap_recalls(ranks, owner, draws=draws, seed=0)
        return np.array([*(found[side][f"R@{k}"] for side in ("i2t", "t2i") for k in CUTOFFS), found["rsum"]])

    def naive() -> np.ndarray:
        generator, (i2t, t2i) = np.random.default_rng(0), (side.numpy() for side in ranks)
        of_image, drawn = [np.flatnonzero(owner == image) for image in range(images)], []
        for _ in range(draws):
            chosen = generator.integers(images, size=images)
            queries = i2t[chosen], t2i[np.concatenate([of_image[image] for image in chosen])]
            numbers = [100 * (side <= k).mean() for side in queries for k in CUTOFFS]
            drawn.append([*numbers, sum(numbers)])
        return np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0).T

    floor = lambda: np.random.default_rng(0).integers(images, size=(draws, images))  # noqa: E731
    return Case(draws, ours, naive, floor, "draws")


class Afresh(Rows):
    """Rows that are read again whenever a number is asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.of = self._read


def report(world: World, _: str) -> Case:
    """Committed rows to a page of results; the twin reads them for every number, the floor reads them once."""
    root = ROOT / "experiments"
    page = root / "activation" / "README.md.j2" if world.quick else ROOT / "docs" / "results.md.j2"
    ours, naive = (lambda kind=kind: rendered(page, kind(root)) for kind in (Rows, Afresh))
    floor = lambda: [file.read_bytes() for file in [page, *root.glob("*/results.csv")]]  # noqa: E731
    return Case(1, ours, naive, floor, "raw read", 0.0)


STAGES: dict[str, Stage] = {
    "evaluation": Stage(evaluation, SETTINGS),
    "ranking": Stage(ranking, GALLERIES),
    "bootstrap": Stage(bootstrap, ("1,000 images",)),
    "report": Stage(report, ("docs/results.md",)),
}
