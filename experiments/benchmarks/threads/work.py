"""Training steps of hybrid_demo's model on made-up batches, in a process of its own that is asked for them.

    python -m experiments.benchmarks.threads.work --forever

Without `--forever` each line of standard input is a number of steps; the answer is a line of JSON with their seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence

import torch
from hydra.utils import instantiate

from threeshnet.objectives.triplet import TripletLoss
from threeshnet.records import MAP_SIDE, SCENE_SIDE, Batch, ImageBatch, TokenSet
from threeshnet.threads import SECONDS_BETWEEN_LOOKS, adapt_threads

from ..common import composed

REGIONS, CELLS, WIDTH, CLASSES = 16, 49, 1280, 29  # of the demo's photos, about
WORDPIECES, VOCABULARY = 16, (1_000, 30_000)


class Step:
    """One training step of the model: forward, loss, backward, clip, update."""

    def __init__(self, batch: int, adapt: Callable[[], None] | None = None) -> None:
        self.adapt = adapt
        torch.manual_seed(0)
        cfg = composed("experiment=hybrid_demo", region_width=WIDTH, classes=CLASSES)
        cfg.sizes.grid_width = WIDTH
        self.model = instantiate(cfg.model).train()
        self.objective = TripletLoss()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=cfg.optimization.learning_rate)
        self.batch = made_up(batch)

    def __call__(self) -> float:
        """Takes the step; returns its seconds."""
        started = time.perf_counter()
        if self.adapt:
            self.adapt()
        images = self.model.image_encoder(self.batch.images)
        captions = self.model.text_encoder(self.batch.captions)
        self.optimizer.zero_grad()
        self.objective(images, captions, self.batch.owners, epoch=1)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        self.optimizer.step()
        return time.perf_counter() - started

    def settle(self) -> None:
        """Takes steps until the number of threads is that of the cores that are free now."""
        end = time.perf_counter() + (2.5 * SECONDS_BETWEEN_LOOKS if self.adapt else 0.0)
        while time.perf_counter() < end:
            self()


def made_up(size: int) -> Batch:
    """A batch with the shapes of the demo's."""
    draw = torch.Generator().manual_seed(0)
    tokens = [
        TokenSet(torch.rand(size, count, WIDTH, generator=draw), torch.ones(size, count, dtype=torch.bool))
        for count in (REGIONS, CELLS)
    ]
    images = ImageBatch(
        regions=tokens[0],
        grid=tokens[1],
        seg_semantic=torch.rand(size, CLASSES, SCENE_SIDE, SCENE_SIDE, generator=draw).softmax(dim=1),
        seg_map=torch.randint(CLASSES, (size, MAP_SIDE, MAP_SIDE), generator=draw).to(torch.uint8),
        seg_categories=(torch.rand(size, CLASSES, generator=draw) > 0.9).float(),
    )
    ids = torch.randint(*VOCABULARY, (size, WORDPIECES), generator=draw)
    return Batch(images, TokenSet(ids, torch.ones_like(ids, dtype=torch.bool)), torch.arange(size), torch.arange(size))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--forever", action="store_true", help="take steps until the process is ended")
    parser.add_argument("--adapt", action="store_true", help="the number of threads, as commands do")
    options = parser.parse_args(arguments)
    step = Step(options.batch, adapt_threads if options.adapt else None)
    step()
    sys.stdout.write(json.dumps({"threads": torch.get_num_threads()}) + "\n")
    sys.stdout.flush()
    while options.forever:
        step()
    for line in sys.stdin:
        step.settle()  # others had their turns in between
        before = time.process_time()
        seconds = [step() for _ in range(int(line))]
        sys.stdout.write(json.dumps({"seconds": seconds, "cpu_seconds": time.process_time() - before}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
