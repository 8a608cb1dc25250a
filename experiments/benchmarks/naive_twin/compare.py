"""Time one training step of threeshnet against the naive twin: python -m experiments.benchmarks.naive_twin.compare

Both take the same weights and the same batches, and must agree on the loss before anything is timed. Then their steps
alternate in one process, so that whatever else the machine does meets both. Peak memory is of one process for each.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from rich.console import Console
from torch import Tensor, nn

from threeshnet.installation import current_commit
from threeshnet.objectives.triplet import TripletLoss
from threeshnet.records import Batch, ImageBatch, TokenSet
from threeshnet.training.schedules import parameter_groups

from ..common import composed, in_own_process, peak_gb
from .naive import NaiveTwin, triplet_loss

CELLS, WIDTH, CLASSES = 49, 1280, 133  # of the yardstick's features
DROPPED = 0.2  # share of the cells that augmentation drops
# Wordpieces of Flickr8k's captions after augmentation, [CLS] and [SEP] included: mean, deviation, least, most.
LENGTHS = (13.3, 3.8, 3, 37)
AGREE = 1e-4  # relative difference of the losses
NAMES = ("ours", "naive")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parsed(arguments)
    torch.set_num_threads(options.threads)
    if options.only:
        return report_memory(options, build(options)[options.only])
    found: dict[str, Any] = {"setting": setting(options), "machine": machine()}
    if options.memory:  # first: Linux lets a process begin with the peak of the one that started it
        found["peak_memory_gb"] = {name: memory_of(name, options) for name in NAMES}
    steps = build(options)
    found |= {"loss": agreement(options, steps)} | times(options, steps)
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128, help="captions in a step")
    parser.add_argument("--dim", type=int, default=256, help="width of the joint space")
    parser.add_argument("--text", default="minilm", help="text encoder: minilm, small, tiny")
    parser.add_argument("--warm-up", type=int, default=2, help="steps of each that are not counted")
    parser.add_argument("--steps", type=int, default=7, help="steps of each that are")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave the memory out")
    parser.add_argument("--only", choices=NAMES, help="take steps of one alone and print its peak memory")
    parser.add_argument("--out", help="JSON file for the result")
    return parser.parse_args(arguments)


class Step:
    """One model with its optimizer: forward, loss, backward, clip, update, as in training."""

    def __init__(self, model: nn.Module, loss: Callable[[Batch], Tensor], groups: list[dict[str, Any]]) -> None:
        self.model, self.loss = model.train(), loss
        self.optimizer = torch.optim.AdamW(groups, weight_decay=1e-4)

    def __call__(self, batch: Batch) -> float:
        """Take the step; returns its seconds."""
        started = time.perf_counter()
        self.optimizer.zero_grad()
        self.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        self.optimizer.step()
        return time.perf_counter() - started


def build(options: argparse.Namespace) -> dict[str, Step]:
    """Both models with the same weights, or the one that is asked for."""
    torch.manual_seed(0)
    cfg = composed("experiment=grid_flickr8k", f"text={options.text}", f"dim={options.dim}", classes=CLASSES)
    cfg.sizes.grid_width = WIDTH
    model, rate, share = instantiate(cfg.model), cfg.optimization.learning_rate, cfg.optimization.pretrained_factor
    steps = {}
    if options.only != "naive":
        objective = TripletLoss()

        def loss(batch: Batch) -> Tensor:
            images, captions = model.image_encoder(batch.images), model.text_encoder(batch.captions)
            return objective(images, captions, batch.owners, epoch=1)["loss"]

        steps["ours"] = Step(model, loss, parameter_groups(model, learning_rate=rate, pretrained_factor=share))
    if options.only != "ours":
        twin = NaiveTwin(bert=instantiate(cfg.text.encoder.bert), width=WIDTH, dim=options.dim, classes=CLASSES)
        twin.take_weights(model)
        slow = set(twin.bert.parameters())
        new = [parameter for parameter in twin.parameters() if parameter not in slow]
        groups = [{"params": new, "lr": rate}, {"params": list(slow), "lr": rate * share}]
        steps["naive"] = Step(twin, lambda batch: triplet_loss(*twin(batch)), groups)
    return steps


def made_up(options: argparse.Namespace, number: int) -> Batch:
    """A batch with the shapes and the lengths of Flickr8k's; the same for the same number."""
    draw, size = torch.Generator().manual_seed(number), options.batch
    kept = (torch.rand(size, CELLS, generator=draw) >= DROPPED).sum(dim=1).clamp(min=1)
    cells = torch.arange(int(kept.max())) < kept.unsqueeze(1)
    mean, deviation, least, most = LENGTHS
    lengths = (torch.randn(size, generator=draw) * deviation + mean).round().clamp(least, most).long()
    words = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    blocks = torch.randint(CLASSES, (size, 8, 8), generator=draw)
    images = ImageBatch(
        regions=None,
        grid=TokenSet(torch.rand(size, cells.shape[1], WIDTH, generator=draw) * cells.unsqueeze(-1), cells),
        seg_semantic=torch.rand(size, CLASSES, 7, 7, generator=draw).softmax(dim=1),
        seg_map=blocks.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2).to(torch.uint8),
        seg_categories=(torch.rand(size, CLASSES, generator=draw) > 0.95).float(),
    )
    ids = torch.randint(1000, 30000, words.shape, generator=draw) * words
    return Batch(images, TokenSet(ids, words), torch.arange(size), torch.arange(size))


def agreement(options: argparse.Namespace, steps: dict[str, Step]) -> dict[str, float]:
    """The loss of both on one batch in training mode without dropout.  Raises AssertionError when they differ."""
    batch, losses = made_up(options, 0), {}
    for name, step in steps.items():
        dropouts = [(module, module.p) for module in step.model.modules() if isinstance(module, nn.Dropout)]
        for module, _ in dropouts:
            module.p = 0.0
        with torch.no_grad():
            losses[name] = step.loss(batch).item()
        for module, share in dropouts:
            module.p = share
    difference = abs(losses["ours"] - losses["naive"]) / losses["naive"]
    assert difference < AGREE, f"the losses differ: {losses}"
    return losses | {"relative_difference": difference}


def times(options: argparse.Namespace, steps: dict[str, Step]) -> dict[str, Any]:
    """Seconds of the steps, taken in turn, with dropout."""
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    for number in range(options.warm_up + options.steps):
        batch = made_up(options, number + 1)
        for name in NAMES if number % 2 else NAMES[::-1]:
            seconds[name].append(round(steps[name](batch), 4))
    counted = {name: taken[options.warm_up :] for name, taken in seconds.items()}
    median = {name: statistics.median(taken) for name, taken in counted.items()}
    return {"seconds": counted, "median_seconds": median, "ratio": round(median["ours"] / median["naive"], 3)}


def report_memory(options: argparse.Namespace, step: Step) -> dict[str, Any]:
    """Takes the steps, then prints the peak of this process."""
    for number in range(options.warm_up + options.steps):
        step(made_up(options, number + 1))
    found = {"peak_memory_gb": round(peak_gb(), 2)}
    sys.stdout.write(json.dumps(found) + "\n")
    return found


def memory_of(name: str, options: argparse.Namespace) -> float:
    """Peak memory in GB of a process that takes three steps of one model."""
    sizes = {"batch": options.batch, "dim": options.dim, "text": options.text, "threads": options.threads}
    given = [f"--{key}={value}" for key, value in sizes.items()]
    return in_own_process(__spec__.name, "--only", name, "--warm-up=0", "--steps=3", *given)["peak_memory_gb"]


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """The sizes that were timed."""
    chosen = {key: value for key, value in vars(options).items() if key not in ("only", "out", "memory")}
    return chosen | {"cells": CELLS, "cell_width": WIDTH, "classes": CLASSES}


def machine() -> dict[str, Any]:
    """What the numbers hold for."""
    return {"processor": platform.machine(), "torch": torch.__version__, "commit": current_commit()}


if __name__ == "__main__":
    result = main()
    if "ratio" in result:
        shown = {key: result[key] for key in ("median_seconds", "ratio", "peak_memory_gb", "loss") if key in result}
        Console().print_json(data=shown)
