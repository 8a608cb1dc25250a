"""Run directories in folders, by what lies in them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from threeshnet.errors import DataError
from threeshnet.runs.run import CHECKPOINTS, JOB, LAST, METRICS, Run

log = logging.getLogger(__name__)


def finished_runs(roots: Sequence[Path], depth: int = 4) -> dict[str, Run]:
    """The finished runs in folders below the roots, by identity; folders that only link to others do not count.

    Nor do runs whose scores are damaged, which a warning names.
    """
    runs: dict[str, Run] = {}
    for root in roots:
        for level in range(1, depth + 1):
            for file in sorted(root.glob("/".join(["*"] * level) + f"/{JOB}")):
                run = Run(file.parent.absolute())
                if run.metrics_file.is_symlink() or not run.is_finished or not (name := run.job.identity):
                    continue
                if run.find_metrics():
                    runs.setdefault(name, run)
                else:
                    log.warning("%s is damaged: its run does not count as finished", run.metrics_file)
    return runs


def evaluations(folders: Sequence[Path]) -> list[Run]:
    """Every run and evaluation in or below some folders that is scored, by folder."""
    return [Run(folder) for folder in sorted(file.parent for top in folders for file in top.rglob(METRICS))]


def trainings(folders: Sequence[Path]) -> list[Run]:
    """The finished trainings in or below some folders.  Raises DataError where there is none."""
    runs = [run for run in evaluations(folders) if run.is_training]
    if not runs:
        raise DataError(f"no finished run in or below {', '.join(map(str, folders))}")
    return runs


def jobs(folder: Path) -> list[Run]:
    """The jobs of a sweep: the folders directly below with a job.json, by name."""
    return [Run(file.parent) for file in sorted(folder.glob(f"*/{JOB}"))]


def run_directories(folder: Path) -> list[Run]:
    """The run directories directly below a folder, begun or not, by name."""
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    return [run for run in map(Run, below) if run.is_there()]


def resumable(folder: Path) -> list[Run]:
    """The runs directly below a folder that have a last checkpoint, oldest name first."""
    return [Run(file.parents[1]) for file in sorted(folder.glob(f"*/{CHECKPOINTS}/{LAST}"))]
