"""Time the image encoder against the plain twin and its bare products.

    python -m experiments.benchmarks.naive_twin.image_encoder --out experiments/benchmarks/naive_twin/image_encoder.json

The bare products are the matrix products and convolutions that our encoder asks torch for, each alone on random numbers
of the same shapes and strides. Ours, the twin and the products take turns in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from rich.console import Console
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from threeshnet.installation import current_commit
from threeshnet.records import MAP_SIDE, SCENE_SIDE, Batch, ImageBatch, TokenSet

from ..common import composed
from .naive import NaiveTwin

CLASSES = 133
PRODUCTS = ("addmm", "mm", "bmm", "baddbmm", "convolution", "convolution_backward")
AGREE = 1e-5  # largest difference of an embedding's value in evaluation


class Size(NamedTuple):
    """A model and a batch, every token real."""

    dim: int
    tokens: int
    width: int
    batch: int


SIZES = {"region": Size(1024, 36, 2048, 64), "grid": Size(256, 49, 1280, 128), "tiny": Size(16, 4, 12, 6)}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parsed(arguments)
    torch.set_num_threads(options.threads)
    setting = {"steps": options.steps, "warm_up": options.warm_up, "threads": options.threads}
    sizes = {name: SIZES[name]._asdict() | measured(SIZES[name], options) for name in options.sizes}
    found = {"setting": setting, "commit": current_commit(), "load": os.getloadavg(), "sizes": sizes}
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["region", "grid"], help="of model and batch")
    parser.add_argument("--warm-up", type=int, default=2, help="turns that are not counted")
    parser.add_argument("--steps", type=int, default=9, help="turns that are")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--out", help="JSON file for the result")
    return parser.parse_args(arguments)


def measured(size: Size, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of evaluation and of a training step, and their ratios."""
    ours, twin = build(size)
    batch = made_up(size)
    with torch.no_grad():
        difference = (ours.eval()(batch.images) - twin.eval().encode_images(batch.images)).abs().max().item()
    assert difference < AGREE, f"the embeddings differ by {difference}"
    encoders = {"ours": lambda: ours(batch.images), "twin": lambda: twin.encode_images(batch.images)}
    found: dict[str, Any] = {"largest_difference": difference}
    for kind in ("evaluation", "training"):
        training = kind == "training"
        for encoder in (ours, twin):
            encoder.train(training)
        work = {name: step(encode, training=training) for name, encode in encoders.items()}
        work["products"] = bare_products(work["ours"])
        found[kind] = in_turns(work, options)
    return found


def build(size: Size) -> tuple[Any, NaiveTwin]:
    """Our image encoder and the twin, with the same weights."""
    torch.manual_seed(0)
    cfg = composed("experiment=grid_flickr8k", "text=tiny", f"dim={size.dim}", classes=CLASSES)
    cfg.sizes.grid_width = size.width
    model = instantiate(cfg.model)
    twin = NaiveTwin(bert=model.text_encoder.bert, widths={"grid": size.width}, dim=size.dim, classes=CLASSES)
    twin.take_weights(model)
    return model.image_encoder, twin


def made_up(size: Size) -> Batch:
    """Random features and segmentation."""
    draw = torch.Generator().manual_seed(0)
    mask = torch.ones(size.batch, size.tokens, dtype=torch.bool)
    images = ImageBatch(
        regions=None,
        grid=TokenSet(torch.rand(size.batch, size.tokens, size.width, generator=draw), mask),
        seg_semantic=torch.rand(size.batch, CLASSES, SCENE_SIDE, SCENE_SIDE, generator=draw).softmax(dim=1),
        seg_map=torch.randint(CLASSES, (size.batch, MAP_SIDE, MAP_SIDE), generator=draw).to(torch.uint8),
        seg_categories=(torch.rand(size.batch, CLASSES, generator=draw) > 0.95).float(),
    )
    rows = torch.arange(size.batch)
    return Batch(images, TokenSet(rows.unsqueeze(1), mask[:, :1]), rows, rows)


def step(encode: Callable[[], Tensor], *, training: bool) -> Callable[[], None]:
    """Encode a batch; in training, with the gradient of all weights."""

    def evaluate() -> None:
        with torch.no_grad():
            encode()

    def train() -> None:
        embeddings = encode()
        (embeddings * torch.linspace(-1, 1, embeddings.numel()).view_as(embeddings)).sum().backward()

    return train if training else evaluate


def bare_products(work: Callable[[], None]) -> Callable[[], None]:
    """The matrix products and convolutions in `work`, without anything around them."""
    seen = Seen()
    with seen:
        work()
    calls = [(function, tuple(map(like, arguments)), options) for function, arguments, options in seen.calls]

    def multiply() -> None:
        with torch.no_grad():
            for function, arguments, options in calls:
                function(*arguments, **options)

    return multiply


class Seen(TorchDispatchMode):
    """Collects calls of products; the sum in `addmm` is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in PRODUCTS:
            bare = (torch.ops.aten.mm.default, args[1:3], {}) if name == "addmm" else (func, args, kwargs or {})
            self.calls.append(bare)
        return func(*args, **(kwargs or {}))


def like(value: Any) -> Any:
    """Random numbers in place of a tensor, with its shape and strides."""
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).uniform_(-1, 1)


def in_turns(work: dict[str, Callable[[], None]], options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each, taken in turn, and the medians of the ratios in a turn."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(options.warm_up + options.steps):
        for name in list(work) if turn % 2 else list(work)[::-1]:
            started = time.perf_counter()
            work[name]()
            if turn >= options.warm_up:
                seconds[name].append(round(time.perf_counter() - started, 4))
    return {
        "seconds": seconds,
        "twin_over_ours": ratio(seconds["twin"], seconds["ours"]),
        "ours_over_products": ratio(seconds["ours"], seconds["products"]),
    }


def ratio(upper: Sequence[float], lower: Sequence[float]) -> dict[str, float]:
    """The median of paired ratios, the least and the most."""
    ratios = [one / other for one, other in zip(upper, lower, strict=True)]
    chosen = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
    return {name: round(value, 3) for name, value in chosen.items()}


if __name__ == "__main__":
    Console().print_json(data=main())
