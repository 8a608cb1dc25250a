"""How a run goes on: from which checkpoint, whether there is anything left to do, and how a person is told."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from threeshnet.errors import ConfigError, Interrupted
from threeshnet.runs.checkpoint_names import BEST, EPOCHS, LAST
from threeshnet.runs.run_directory import CHECKPOINTS, METRICS
from threeshnet.training.checkpoint_files import newest_whole
from threeshnet.training.processes import leave_together
from threeshnet.training.rank import rank

log = logging.getLogger(__name__)


def checkpoint_to_resume(cfg: DictConfig, folder: Path) -> Path | None:
    """The newest whole checkpoint when `resume` is set.  Raises ConfigError for a folder that holds another run."""
    last = folder / CHECKPOINTS / LAST
    if not cfg.resume:
        if last.exists() and rank() == 0:
            raise ConfigError(
                f"out={folder} holds a run already ({last.relative_to(folder)}): go on with it by RESUME=1 "
                "(resume=true), or give another OUT (out=<folder>)"
            )
        return None
    newest = newest_whole(folder / CHECKPOINTS)
    if newest is None:
        log.warning("resume=true, but %s is not there: starting afresh", last)
    return newest


def finished(cfg: DictConfig, folder: Path, checkpoint: dict[str, Any] | None) -> dict[str, Any] | None:
    """The metrics of a run that has nothing left to do under this config; else None.

    What was scored before a run went on (with more epochs, or another selection) keeps its place under another name.
    """
    file = folder / METRICS
    if checkpoint is None or not file.is_file():
        return None
    metrics = json.loads(file.read_text(encoding="utf-8"))
    epochs, steps = checkpoint.get(EPOCHS, 0), checkpoint["global_step"]
    ended = epochs >= cfg.trainer.max_epochs >= 0 or steps >= cfg.trainer.max_steps >= 0
    selection = selected(cfg.selection, folder)[0]
    if ended and (metrics["steps"], metrics["selection"]) == (steps, selection):
        return metrics
    if rank() == 0:
        file.replace(file.with_name(f"metrics_of_step_{metrics['steps']}_{metrics['selection']}.json"))
    return None


def selected(selection: str, folder: Path) -> tuple[str, Path]:
    """The checkpoint to score. Without a finished epoch there is no best one; then it is the last weights."""
    best, last = folder / CHECKPOINTS / BEST, folder / CHECKPOINTS / LAST
    return ("best", best) if selection == "best" and best.exists() else ("last", last)


@contextmanager
def going_on(folder: Path) -> Iterator[None]:
    """An interrupted run says how to go on with it, and its processes end together."""
    try:
        yield
    except Interrupted as interrupted:
        leave_together()
        given = HydraConfig.get().overrides.task
        words = [word for word in given if word.split("=")[0] not in ("out", "resume")]
        quoted = "'" if "=" in str(folder) or " " in str(folder) else ""
        words += [f"out={quoted}{folder}{quoted}", "resume=true"]
        command = shlex.join(["python", "-m", "threeshnet.cli.train", *words])
        raise Interrupted(f"{interrupted}. To go on: {command}") from interrupted
