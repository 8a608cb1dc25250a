"""Weights & Biases beside the CSV log: one run a job, offline where nobody is logged in, and never a reason to stop."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

log = logging.getLogger(__name__)
STEP = "trainer/global_step"  # as Lightning names it
LOWER_IS_BETTER = ("median_rank", "mean_rank")
SECONDS_TO_START, SECONDS_TO_FINISH = 30, 600  # of waiting for the service; what is not sent stays on the disk


def open_run(folder: Path, *, mode: str, **facts: Any) -> Any | None:
    """A started W&B run whose files lie in `folder`; None, with a warning, when none can be started.

    `facts` are arguments of `wandb.init`; a run with their `id` is continued. Without a service the run is written
    offline. W&B's look at git is off: it would send the address of the remote, which may hold a token, and a patch of
    every local change.
    """
    for attempt in dict.fromkeys((mode, "offline")):
        try:
            settings = wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                init_timeout=SECONDS_TO_START,
                finish_timeout=SECONDS_TO_FINISH,
            )
            facts |= {"mode": attempt, "dir": str(folder), "settings": settings}
            run = wandb.init(**facts, resume="allow", reinit="create_new")
            _define_axes(run)
            return run
        except Exception as reason:  # of any kind: the training does not depend on it
            log.warning("W&B (%s) could not be started: %s", attempt, reason)
    return None


def _define_axes(run: Any) -> None:
    """What is measured once an epoch stands against the epoch, losses against the step; of dev the best is kept."""
    run.define_metric("epoch")
    run.define_metric(STEP)
    run.define_metric("train/*", step_metric=STEP)
    for pattern in ("dev/*", "time/*"):
        run.define_metric(pattern, step_metric="epoch")
    run.define_metric("dev/rsum", step_metric="epoch", summary="max")
    for side in ("i2t", "t2i"):
        for name in ("R@1", "R@5", "R@10", *LOWER_IS_BETTER):
            best = "min" if name in LOWER_IS_BETTER else "max"
            run.define_metric(f"dev/{side}_{name}", step_metric="epoch", summary=best)


class WandbLog(WandbLogger):
    """Lightning's logger on a run that `open_run` has started. A call that fails is a warning, said once."""

    def __init__(self, run: Any, folder: Path) -> None:
        super().__init__(experiment=run, project=run.project, id=run.id, save_dir=folder)
        self.failed = False

    def attempt(self, action: str, call: Any, *arguments: Any, **named: Any) -> None:
        """Call a function of W&B; an error is logged as a warning, once."""
        try:
            call(*arguments, **named)
        except Exception as reason:  # of any kind: the training does not depend on it
            if not self.failed:
                log.warning("W&B: %s failed (%s); the training goes on, and the CSV log is whole", action, reason)
            self.failed = True

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.attempt("logging numbers", super().log_metrics, metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        self.attempt("logging settings", super().log_hyperparams, params)

    @rank_zero_only
    def close(self, exit_code: int) -> None:
        """End the run: the next job of a sweep begins its own."""
        self.attempt("finishing the run", self.experiment.finish, exit_code=exit_code)
