"""Runs that are started to be interrupted: forks of a process that has imported the libraries and computed nothing."""

from __future__ import annotations

import csv
import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

# Once, before the forks: commands load what they work with when there is work.
import threeshnet.cli.data
import threeshnet.cli.train
import threeshnet.cli.verify  # noqa: F401
from threeshnet.files import PARTIAL
from threeshnet.runs.checkpoint_files import newest_whole
from threeshnet.runs.run import Run

from ..common import fork, has_ended

SIZES = ("data.extractor.region_width=16", "data.extractor.grid_width=24", "data.extractor.classes=7")
SHARDS = ("data=synthetic", "images=40", "+data.extractor.regions=5", *SIZES, "progress=false", "workers=0")
# Six epochs of seven steps, a checkpoint every second one.
RUN = ("experiment=region_coco", "text=tiny", "dim=32", "batches.batch_size=16", "trainer.max_epochs=6")
RUN += ("schedule.milestones=[2]", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "highlights=0")
RUN += ("trainer.log_every_n_steps=1", "checkpoints.steps=2")
MOST_WAITING = 300  # seconds for a checkpoint: longer means that the run hangs


def start(folder: Path, command: Any, name: str, words: Sequence[str]) -> int:
    """Starts a command of the suite in `folder`; returns the id of its process group."""

    def work() -> None:
        sys.argv = ["threeshnet", name, *words]
        command()

    return fork(folder, work)


def wait_for_save(folder: Path, process: int) -> None:
    """Wait until a checkpoint is being written, or the process has ended."""
    until, file = time.monotonic() + MOST_WAITING, partial_of(folder)
    stale = modified(file)  # left by the kill before
    while modified(file) in (None, stale):
        if has_ended(process) or time.monotonic() > until:
            return
        time.sleep(0.0005)


def modified(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def partial_of(folder: Path) -> Path:
    last = Run(folder / "run").last
    return last.with_name(last.name + PARTIAL)


def step_of(folder: Path) -> int:
    """Of the newest whole checkpoint; 0 where there is none."""
    newest = newest_whole(Run(folder / "run"))
    return torch.load(newest, weights_only=True)["global_step"] if newest else 0


def digest(out: Path) -> str:
    """sha256 of the last and the best weights, the optimizer, the random states and the recalls of a run."""
    made, run = hashlib.sha256(), Run(out)
    for file in (run.last, run.best):
        content = torch.load(file, weights_only=True)
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "random_states", "global_step"):
            add(made, content[part])
    metrics = run.metrics
    add(made, {name: metrics[name] for name in ("i2t", "t2i", "rsum", "steps", "epochs")})
    with run.log.open(newline="") as opened:
        rows = [(row["step"], row["train/loss"], row["dev/rsum"]) for row in csv.DictReader(opened)]
    add(made, sorted(row for row in rows if any(row[1:])))
    return made.hexdigest()


def add(made: Any, node: Any) -> None:
    if isinstance(node, torch.Tensor):
        made.update(node.contiguous().numpy().tobytes())
    elif isinstance(node, dict):
        for key in sorted(node, key=str):
            made.update(str(key).encode())
            add(made, node[key])
    elif isinstance(node, list | tuple):
        for value in node:
            add(made, value)
    else:
        made.update(repr(node).encode())
