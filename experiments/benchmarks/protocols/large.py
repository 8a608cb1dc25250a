"""Rank a large gallery without holding its similarities: python -m experiments.benchmarks.protocols.large

Random unit vectors near each other as a model's would be: every caption leans to its image by `--signal`. Prints the
time and the peak memory as JSON. `--check N` compares the ranks of N captions with the definition, one at a time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch

from threeshnet.installation import current_commit
from threeshnet.metrics.ranks import BLOCK_CELLS, rank_similarity
from threeshnet.metrics.recalls import recall_of_ranks
from threeshnet.metrics.similarity import EmbeddingSimilarity

from ..common import peak_gb, show_and_write


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parsed(arguments)
    torch.set_num_threads(options.threads)
    source, owner = made_up(options)
    before = round(peak_gb(), 2)
    started = time.perf_counter()
    ranks = rank_similarity(source, owner, block_cells=options.block_cells)
    seconds = time.perf_counter() - started
    cells = options.images * options.captions
    found: dict[str, Any] = {
        "images": options.images,
        "captions": options.captions,
        "dim": options.dim,
        "threads": options.threads,
        "block_cells": options.block_cells,
        "seconds": round(seconds, 1),
        "nanoseconds_a_similarity": round(seconds / cells * 1e9, 2),
        "peak_memory_gb": round(peak_gb(), 2),
        "peak_memory_gb_before_ranking": before,
        "all_similarities_would_take_gb": round(cells * 4 / 2**30, 1),
        "checked": check(source, owner, ranks.t2i, options.check),
        "recall": recall_of_ranks(ranks),
        "commit": current_commit(),
    }
    show_and_write(found, options.out)
    return found


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--captions", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--signal", type=float, default=0.3, help="share of the image in its captions")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--block-cells", type=int, default=BLOCK_CELLS, help="similarities held at once")
    parser.add_argument("--check", type=int, default=10, help="captions ranked once more by the definition")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="JSON file for the result")
    options = parser.parse_args(arguments)
    if options.captions < options.images:
        parser.error(f"--captions {options.captions}: every one of the {options.images} images needs one")
    return options


def made_up(options: argparse.Namespace) -> tuple[EmbeddingSimilarity, torch.Tensor]:
    """Images, captions, and whose each is."""
    draw = torch.Generator().manual_seed(options.seed)
    images = torch.nn.functional.normalize(torch.randn(options.images, options.dim, generator=draw), dim=1)
    owner = torch.arange(options.captions) % options.images
    captions = torch.randn(options.captions, options.dim, generator=draw).mul_(options.dim**-0.5)
    for start in range(0, options.captions, options.images):  # whole rounds of all images: no copy of them is made
        part = captions[start : start + options.images]
        part.add_(images[: len(part)], alpha=options.signal)
    captions /= captions.norm(dim=1, keepdim=True)
    return EmbeddingSimilarity(images, captions), owner


def check(source: EmbeddingSimilarity, owner: torch.Tensor, t2i: torch.Tensor, count: int) -> int:
    """Rank `count` captions by the definition and compare; returns how many."""
    chosen = torch.linspace(0, len(owner) - 1, min(count, len(owner))).long().tolist()
    for caption in chosen:
        column = (source.image_embeddings @ source.caption_embeddings[caption]).float()
        right = float(column[owner[caption]])
        column[owner[caption]] = -torch.inf
        rank = 1 + int((column >= right).sum())
        if rank != int(t2i[caption]):
            raise AssertionError(f"caption {caption} has rank {rank} by the definition and {t2i[caption]} in blocks")
    return len(chosen)


if __name__ == "__main__":
    main()
