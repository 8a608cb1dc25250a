"""What ranking gains by low precision: python -m experiments.benchmarks.protocols.precisions

Each size is ranked in float64, with float32 blocks, and with the precisions of this machine, in turns. All must give
the same ranks. Seconds of the processor stand beside those of the clock, which other jobs of the machine lengthen.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from threeshnet.installation import current_commit
from threeshnet.metrics.ranks import Ranks, rank_similarity
from threeshnet.metrics.similarity import EmbeddingSimilarity

from .large import made_up

WAYS: dict[str, list[torch.dtype] | None] = {"float64": [], "float32": [torch.float32], "default": None}
SIZES = ((5_000, 25_000), (10_000, 50_000))


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parsed(arguments)
    torch.set_num_threads(options.threads)
    sizes = [of_size(images, captions, options) for images, captions in options.sizes]
    found = {"threads": options.threads, "dim": options.dim, "repeats": options.repeats, "sizes": sizes}
    found["commit"] = current_commit()
    Console().print_json(json.dumps(found))
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = lambda text: tuple(int(number) for number in text.split("x"))  # noqa: E731
    parser.add_argument("--sizes", nargs="+", type=size, default=SIZES, help="images x captions, as 5000x25000")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--signal", type=float, default=0.3, help="share of the image in its captions")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="JSON file for the result")
    return parser.parse_args(arguments)


def of_size(images: int, captions: int, options: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of every way.  Raises AssertionError when the ranks of two ways differ."""
    source, owner = made_up(argparse.Namespace(**vars(options) | {"images": images, "captions": captions}))
    clock: dict[str, list[float]] = {name: [] for name in WAYS}
    processor: dict[str, list[float]] = {name: [] for name in WAYS}
    exact = rank_similarity(source, owner, precisions=[])
    for repeat in range(options.repeats):
        for name in list(WAYS) if repeat % 2 else list(WAYS)[::-1]:
            seconds, ranks = timed(source, owner, WAYS[name])
            clock[name].append(seconds[0])
            processor[name].append(seconds[1])
            if not all(one.equal(other) for one, other in zip(ranks, exact, strict=True)):
                raise AssertionError(f"{name}: other ranks than in float64 at {images} x {captions}")
    cells = images * captions
    ways = {
        name: {
            "seconds": round(statistics.median(clock[name]), 2),
            "processor_seconds": round(statistics.median(processor[name]), 2),
            "processor_spread": [round(min(processor[name]), 2), round(max(processor[name]), 2)],
            "processor_nanoseconds_a_similarity": round(statistics.median(processor[name]) / cells * 1e9, 2),
        }
        for name in WAYS
    }
    return {"images": images, "captions": captions, **ways}


def timed(
    source: EmbeddingSimilarity, owner: torch.Tensor, precisions: list[torch.dtype] | None
) -> tuple[tuple[float, float], Ranks]:
    """Seconds of the clock and of the processor, and the ranks."""
    clock, processor = time.perf_counter(), time.process_time()
    ranks = rank_similarity(source, owner, precisions=precisions)
    return (time.perf_counter() - clock, time.process_time() - processor), ranks


if __name__ == "__main__":
    main()
