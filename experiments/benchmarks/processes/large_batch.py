"""A batch of 4,096 in little memory: what a step takes, in chunks and at once, and whether its gradient is the same.

    python -m experiments.benchmarks.processes.large_batch --out experiments/benchmarks/processes

One step of the region model (36 x 2048, 133 classes, made-up numbers, no dropout), hardest negatives, each in a process
of its own; memory is what the process grew by over model and batch. Rows are kept in large_batch.json once measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from threeshnet.files import write_json
from threeshnet.training.module import RetrievalModule

from ..common import in_own_process, peak_gb, write_page
from .scaling import build, made_up, measured_before
from .world import furthest, gradients

SETTINGS = ("dim", "text", "chunk", "rows", "threads")


def work(options: argparse.Namespace) -> None:
    """One step; what it took is printed, its gradients go to `gradients` or against those there."""
    torch.set_num_threads(options.threads)
    module = build(options.dim, options.text)
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    if options.chunked:
        module.chunk = options.chunk
        module.objective.rows = options.rows
    module.prepare()
    take(module, 2)  # what is made once: threads, buffers, levels
    batch, before = made_up(options.pairs, 1), peak_gb()
    started = time.perf_counter()
    loss = module.loss(batch, 0)["loss"]
    loss.backward()
    found: dict[str, Any] = {"seconds": time.perf_counter() - started, "memory": peak_gb() - before, "before": before}
    found["loss"] = loss.item()
    if not options.chunked:
        torch.save(gradients(module), options.gradients)
    elif options.gradients.is_file():
        found["gradient"] = furthest(torch.load(options.gradients, weights_only=True), gradients(module))
    print(json.dumps(found))


def take(module: RetrievalModule, pairs: int) -> None:
    module.loss(made_up(pairs, 0), 0)["loss"].backward()
    module.zero_grad()


def measure(options: argparse.Namespace, pairs: int, chunked: bool, folder: Path) -> dict[str, Any]:
    """One row, in a process of its own."""
    said = [f"--{name}={getattr(options, name)}" for name in SETTINGS]
    said += [f"--out={options.out}", f"--pairs={pairs}", f"--gradients={folder / f'{pairs}.pt'}"]
    found = in_own_process(__spec__.name, *said, *(["--chunked"] if chunked else []))
    return {"pairs": pairs, "chunked": chunked, **found}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--at-once", type=int, nargs="*", default=[64, 128, 256], help="batches that fit, both ways")
    parser.add_argument("--large", type=int, nargs="*", default=[1024, 4096], help="batches in chunks alone")
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--text", default="tiny", help="text encoder: its memory is that of a chunk, too")
    parser.add_argument("--chunk", type=int, default=64, help="pairs encoded at a time")
    parser.add_argument("--rows", type=int, default=512, help="images compared with all captions at a time")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    parser.add_argument("--gradients", type=Path, help=argparse.SUPPRESS)  # this and what follows: for a process
    parser.add_argument("--pairs", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--chunked", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.pairs:
        work(options)
        return
    file, found = measured_before(options, "large_batch.json", SETTINGS)
    there = {(row["pairs"], row["chunked"]) for row in found["rows"]}
    cases = [(pairs, way) for pairs in options.at_once for way in (False, True)]
    with tempfile.TemporaryDirectory() as folder:
        for pairs, chunked in [*cases, *((pairs, True) for pairs in options.large)]:
            if (pairs, True) in there and (pairs, chunked) in there:
                continue
            found["rows"] = [row for row in found["rows"] if (row["pairs"], row["chunked"]) != (pairs, chunked)]
            found["rows"].append(measure(options, pairs, chunked, Path(folder)))
            write_json(file, found)
    write_page(options.out)


if __name__ == "__main__":
    main()
