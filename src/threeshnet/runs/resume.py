"""Where a training works, and how it goes on: from which checkpoint, and whether anything is left to do."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from threeshnet.errors import ConfigError, Interrupted
from threeshnet.nn.collectives import leave_together
from threeshnet.runs.checkpoint_files import newest_whole
from threeshnet.runs.find import resumable
from threeshnet.runs.lock import SHARED_OUT
from threeshnet.runs.rank import process_rank
from threeshnet.runs.run import Run
from threeshnet.settings import Invocation, TrainSettings

log = logging.getLogger(__name__)
EPOCHS = "epochs"  # key of a checkpoint: the epochs that are finished, with their evaluation
STARTED_BESIDE_OTHERS = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")  # the number of processes, by torchrun and by srun


def run_of(settings: TrainSettings, invocation: Invocation) -> Run:
    """The run in `out`, in a multirun's folder of this job, the newest one to resume, or a new one named by the time.

    Raises ConfigError where torchrun or srun started several processes without `out`: each would name another folder.
    """
    if shared := os.environ.get(SHARED_OUT):
        return Run(shared)
    if folder := settings.out or invocation.output_dir:
        return Run(Path(folder).absolute())
    several = next((name for name in STARTED_BESIDE_OTHERS if int(os.environ.get(name) or 1) > 1), None)
    if several:
        raise ConfigError(f"{several}={os.environ[several]} processes need one folder: give it as out=<folder>")
    runs = Path("runs").absolute() / settings.experiment_name
    earlier = resumable(runs) if settings.resume else []
    return earlier[-1] if earlier else Run(runs / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))


def checkpoint_to_resume(run: Run, *, resume: bool) -> Path | None:
    """The newest whole checkpoint, if any.  Raises ConfigError for a folder that holds a run, without `resume`."""
    if not resume:
        if run.last.exists() and process_rank() == 0:
            raise ConfigError(
                f"out={run.folder} holds a run already ({run.last.relative_to(run.folder)}): go on with it by RESUME=1 "
                "(resume=true), or give another OUT (out=<folder>)"
            )
        return None
    newest = newest_whole(run)
    if newest is None:
        log.warning("resume=true, but %s is not there: starting afresh", run.last)
    return newest


def finished_metrics(run: Run, settings: TrainSettings, checkpoint: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The metrics of a run that has nothing left to do under these settings, else None.

    Scores from before a run goes on (with more epochs, or another selection) are kept under another name.
    """
    if checkpoint is None or not run.is_finished:
        return None
    metrics, limits = run.metrics, settings.trainer
    epochs, steps = checkpoint.get(EPOCHS, 0), checkpoint["global_step"]
    ended = epochs >= limits["max_epochs"] >= 0 or steps >= limits["max_steps"] >= 0
    selection, _ = run.selected(settings.selection)
    if ended and (metrics["steps"], metrics["selection"]) == (steps, selection):
        return metrics
    run.set_scores_aside(metrics)
    return None


@contextmanager
def interruptible(run: Run, invocation: Invocation) -> Iterator[None]:
    """When the run is interrupted, its processes end together, and the error names the command that goes on."""
    try:
        yield
    except Interrupted as interrupted:
        leave_together()
        words = [word for word in invocation.overrides if word.split("=")[0] not in ("out", "resume")]
        quote = "'" if "=" in str(run.folder) or " " in str(run.folder) else ""
        words += [f"out={quote}{run.folder}{quote}", "resume=true"]
        command = shlex.join(["threeshnet", "train", *words])
        raise Interrupted(f"{interrupted}. To go on: {command}") from interrupted
