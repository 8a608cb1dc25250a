"""Callbacks that observe a run: the time of a step, a collapse of the embeddings, and progress.json."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from threeshnet.errors import Interrupted
from threeshnet.runs.records import FAILED, INTERRUPTED, RUNNING
from threeshnet.runs.run import Run
from threeshnet.training.module import RetrievalModule

log = logging.getLogger(__name__)
STATE_KEY = "Progress"  # in checkpoints
SECONDS_BETWEEN_WRITES = 5.0
STOPPED_FROM_OUTSIDE = (KeyboardInterrupt, SystemExit, SIGTERMException, Interrupted)
COLLAPSED = 0.97  # of the loss of equal embeddings, as the mean of an epoch


class StepClock(Callback):
    """Logs seconds a training step takes, and the share that it waits for data, every epoch."""

    def __init__(self) -> None:
        self.waited = self.worked = 0.0
        self.steps = 0
        self.mark = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.mark = time.perf_counter()  # a run resumed in mid-epoch starts no epoch first

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.waited = self.worked = 0.0
        self.steps, self.mark = 0, time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        now = time.perf_counter()
        self.waited, self.mark = self.waited + now - self.mark, now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self.worked, self.mark, self.steps = self.worked + now - self.mark, now, self.steps + 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.steps:
            whole = self.worked + self.waited
            pl_module.log("time/step_seconds", whole / self.steps)
            pl_module.log("time/share_waiting_for_data", self.waited / whole)


class CollapseWatch(Callback):
    """Warns once, after the first later epoch in which the loss was that of equal embeddings. Every run starts near it.

    Such a run goes on: it may recover, and its ranks beat chance, since ranks need small differences alone. But how far
    a run recovers depends on the seed, so such runs should not be compared.
    """

    def __init__(self) -> None:
        self.total, self.steps, self.warned = 0.0, 0, False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.total, self.steps = 0.0, 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.total, self.steps = self.total + outputs[RetrievalModule.OVER_COLLAPSED], self.steps + 1

    @rank_zero_only
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        mean = float(self.total) / max(self.steps, 1)
        if trainer.current_epoch > 0 and mean >= COLLAPSED and not self.warned:
            self.warned = True
            log.warning(
                "epoch %d: the loss is %.0f%% of what it would be if all embeddings were equal. The hardest negatives "
                "draw everything into one point when they come too early: set a longer warm_up_epochs, or "
                "objective=infonce (docs/guides/options.md)",
                trainer.current_epoch + 1,
                100 * mean,
            )


class ProgressWriter(Callback):
    """Writes progress.json at the end of every epoch and every few seconds between, on rank 0 alone.

    `threeshnet.runs.records.Progress` lists its keys. The command marks the run as finished when it is scored.
    """

    def __init__(self, *, run: Run, seconds: float = SECONDS_BETWEEN_WRITES) -> None:
        self.run, self.seconds = run, seconds
        self.started = time.time()
        self.before = 0.0  # seconds of training in earlier processes of the run
        self.written = -math.inf
        self.first_step: int | None = None  # of this process: a resumed run has taken steps before
        self.began = 0.0
        self.dev: float | None = None
        self.best: float | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, RUNNING)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.first_step is None:  # counted from the end of the first step, which is slower than the others
            self.first_step, self.began = trainer.global_step, time.monotonic()
        if time.monotonic() - self.written >= self.seconds:
            self._write(trainer, RUNNING)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rsum = trainer.callback_metrics.get("dev/rsum")
        if rsum is None or trainer.sanity_checking:
            return
        self.dev = float(rsum)
        self.best = self.dev if self.best is None else max(self.best, self.dev)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, RUNNING, epoch=trainer.current_epoch + 1)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._write(trainer, INTERRUPTED if isinstance(exception, STOPPED_FROM_OUTSIDE) else FAILED)

    @property
    def state_key(self) -> str:
        return STATE_KEY

    def state_dict(self) -> dict[str, Any]:
        seconds = self.before + time.time() - self.started
        return {"dev_rsum": self.dev, "best_dev_rsum": self.best, "seconds": seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.dev, self.best = state_dict["dev_rsum"], state_dict["best_dev_rsum"]
        self.before = state_dict.get("seconds", 0.0)

    def _write(self, trainer: Trainer, state: str, epoch: int | None = None) -> None:
        if not trainer.is_global_zero:
            return
        steps = self._steps(trainer)
        content = {
            "state": state,
            "epoch": trainer.current_epoch if epoch is None else epoch,
            "epochs": trainer.max_epochs,
            "step": trainer.global_step,
            "steps": int(steps) if math.isfinite(steps) else None,
            "dev_rsum": self.dev,
            "best_dev_rsum": self.best,
            "started": self.started,
            "updated": time.time(),
            "seconds_left": self.seconds_left(trainer),
        }
        self.written = time.monotonic()
        try:
            self.run.write_progress(content)
        except OSError as error:  # no reason to stop: checkpoints report a full disk
            log.warning("%s cannot be written: %s", error.filename, error.strerror)

    def seconds_left(self, trainer: Trainer) -> float | None:
        """Of training with its evaluations, by the mean of the steps so far; None where that is unknown."""
        step, steps = trainer.global_step, self._steps(trainer)
        if self.first_step is None or step <= self.first_step or not math.isfinite(steps):
            return None
        mean = (time.monotonic() - self.began) / (step - self.first_step)
        return round(mean * max(steps - step, 0), 1)

    def _steps(self, trainer: Trainer) -> float:
        """Of the whole run; infinity before the first, when counting them would open the data too early."""
        return trainer.estimated_stepping_batches if self.first_step is not None else math.inf


class TimeLeft(ProgressBar):
    """Adds the time that is left of the whole training to a progress bar, which counts the batches of an epoch."""

    def __init__(self, *, writer: ProgressWriter, **options: Any) -> None:
        super().__init__(**options)
        self.writer = writer

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        seconds = self.writer.seconds_left(trainer)
        return super().get_metrics(trainer, pl_module) | ({} if seconds is None else {"left": in_minutes(seconds)})


class PlainBar(TimeLeft, TQDMProgressBar):
    """For logs."""


class RichBar(TimeLeft, RichProgressBar):
    """For terminals."""


def in_minutes(seconds: float) -> str:
    """A time as people say it.

    >>> in_minutes(200), in_minutes(100), in_minutes(70), in_minutes(20)
    ('3 min', '2 min', '1 min', '< 1 min')
    """
    return f"{seconds / 60:.0f} min" if seconds >= 60 else "< 1 min"


def seconds_of(checkpoint: Mapping[str, Any] | None) -> float:
    """Seconds of training behind a checkpoint; 0 without one, or when it does not hold them.

    Lost work after the checkpoint does not count.
    """
    states = (checkpoint or {}).get("callbacks", {})
    return float(states.get(STATE_KEY, {}).get("seconds", 0.0))
