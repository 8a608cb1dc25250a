"""The jobs of a Hydra multirun, each as a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threeshnet.errors import ConfigError
from threeshnet.overrides import text
from threeshnet.runs.run import Run
from threeshnet.studies.board import Board
from threeshnet.studies.launch import Job, Local, processes, visible_gpus
from threeshnet.studies.scheduler import Scheduler, Status, end


def run_multirun(
    *,
    program: Sequence[str],
    overrides: Sequence[Sequence[str]],
    folders: Sequence[Path],
    devices: Sequence[Any],
    accelerators: Sequence[str],
    parallel: int | None,
    jobs_per_gpu: int = 1,
) -> list[float | None]:
    """Best dev rsum of every job.  Raises JobsFailed with the failed jobs, SystemExit(75) when interrupted."""
    if len(set(folders)) < len(folders):
        raise ConfigError(f"out={folders[0]} is one folder for several jobs; give hydra.sweep.dir=<folder> instead")
    names = [" ".join(word for word in words if not all(word in each for each in overrides)) for words in overrides]
    gpus = [visible_gpus(accelerator) for accelerator in accelerators]
    jobs = [
        Job(name or str(folder.name), folder, (*program, *words, text("out", folder)), processes(number), bool(seen))
        for name, words, folder, number, seen in zip(names, overrides, folders, devices, gpus, strict=True)
    ]
    statuses = [Status(job) for job in jobs]
    board = Board(statuses, title="multirun")
    starter = Local(parallel=parallel, gpus=max(gpus, key=len), jobs_per_gpu=jobs_per_gpu)
    with board.shown():
        Scheduler(starter=starter, changed=board.changed).run(statuses, board.look)
    end(statuses)
    return [Run(job.folder).progress.best_dev_rsum for job in jobs]
