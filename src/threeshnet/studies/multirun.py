"""The jobs of a Hydra multirun, each as a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threeshnet.errors import ConfigError
from threeshnet.runs import progress
from threeshnet.studies.board import Board
from threeshnet.studies.launch import Job, Local, processes, visible_cards
from threeshnet.studies.overrides import text
from threeshnet.studies.scheduler import INTERRUPTED, STOPPED, Runner, Status, failures


def run_multirun(
    *,
    module: str,
    overrides: Sequence[Sequence[str]],
    folders: Sequence[Path],
    devices: Sequence[Any],
    accelerators: Sequence[str],
    parallel: int | None,
    jobs_per_gpu: int = 1,
) -> list[float | None]:
    """Best dev rsum of every job.  Raises JobsFailed with the jobs that failed, SystemExit(75) when interrupted."""
    if len(set(folders)) < len(folders):
        raise ConfigError(f"out={folders[0]} is one folder for several jobs; give hydra.sweep.dir=<folder> instead")
    names = [" ".join(word for word in words if not all(word in all_of for all_of in overrides)) for words in overrides]
    cards = [visible_cards(accelerator) for accelerator in accelerators]
    jobs = [
        Job(name or str(folder.name), folder, (*words, text("out", folder)), module, processes(number), bool(seen))
        for name, words, folder, number, seen in zip(names, overrides, folders, devices, cards, strict=True)
    ]
    statuses = [Status(job) for job in jobs]
    board = Board(statuses, title="multirun")
    starter = Local(parallel=parallel, cards=max(cards, key=len), jobs_per_gpu=jobs_per_gpu)
    runner = Runner(starter=starter, changed=board.changed)
    with board.shown():
        runner.run(statuses, board.look)
    end(statuses)
    return [progress.read(job.folder).get("best_dev_rsum") for job in jobs]


class JobsFailed(ConfigError):
    """One or more jobs failed; the others have been run."""


def end(statuses: Sequence[Status]) -> None:
    """Nothing when all are finished.  Raises JobsFailed, or SystemExit(75) when some wait to be resumed."""
    if said := failures(statuses):
        raise JobsFailed(said)
    if any(status.state == STOPPED for status in statuses):
        sys.stderr.write("interrupted; the same command goes on with what is not finished\n")
        sys.exit(INTERRUPTED)
