"""Who writes progress.json while a run trains."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException

from threeshnet.errors import Interrupted
from threeshnet.runs.records import FAILED, INTERRUPTED, RUNNING
from threeshnet.runs.run import Run

log = logging.getLogger(__name__)
SECONDS_BETWEEN_WRITES = 5.0
STOPPED_FROM_OUTSIDE = (KeyboardInterrupt, SystemExit, SIGTERMException, Interrupted)


class Progress(Callback):
    """Writes the run's progress.json at every epoch's end and each few seconds between, on rank 0 alone.

    state (running, finished, failed, interrupted), epoch (finished ones) of epochs, step of steps, dev_rsum (the
    newest) and best_dev_rsum (both null before the first), started and updated (unix seconds), seconds_left (of
    training, by the mean step of this process; null when unknown). The command says when all is finished: `mark`.
    """

    def __init__(self, *, run: Run, seconds: float = SECONDS_BETWEEN_WRITES) -> None:
        self.run, self.seconds = run, seconds
        self.started = time.time()
        self.before = 0.0  # seconds that the run took before this process went on with it
        self.written = -math.inf
        self.first_step: int | None = None  # of this process: a resumed run has taken steps before
        self.began = 0.0
        self.dev: float | None = None
        self.best: float | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer, RUNNING)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.first_step is None:  # counted from the end of the first step, which is slower than the others
            self.first_step, self.began = trainer.global_step, time.monotonic()
        if time.monotonic() - self.written >= self.seconds:
            self._write(trainer, RUNNING)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = trainer.callback_metrics.get("dev/rsum")
        if found is None or trainer.sanity_checking:
            return
        self.dev = float(found)
        self.best = self.dev if self.best is None else max(self.best, self.dev)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer, RUNNING, epoch=trainer.current_epoch + 1)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._write(trainer, INTERRUPTED if isinstance(exception, STOPPED_FROM_OUTSIDE) else FAILED)

    def state_dict(self) -> dict[str, Any]:
        seconds = self.before + time.time() - self.started
        return {"dev_rsum": self.dev, "best_dev_rsum": self.best, "seconds": seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.dev, self.best = state_dict["dev_rsum"], state_dict["best_dev_rsum"]
        self.before = state_dict.get("seconds", 0.0)

    def _write(self, trainer: pl.Trainer, state: str, epoch: int | None = None) -> None:
        if not trainer.is_global_zero:
            return
        steps = trainer.estimated_stepping_batches if self.first_step is not None else math.inf
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
            "seconds_left": self._seconds_left(trainer.global_step, steps),
        }
        self.written = time.monotonic()
        try:
            self.run.write_progress(content)
        except OSError as error:  # those who look from outside see less; the run has its own way with a full disk
            log.warning("%s cannot be written: %s", error.filename, error.strerror)

    def _seconds_left(self, step: int, steps: float) -> float | None:
        if self.first_step is None or step <= self.first_step or not math.isfinite(steps):
            return None
        mean = (time.monotonic() - self.began) / (step - self.first_step)
        return round(mean * max(steps - step, 0), 1)


def seconds_of(checkpoint: Mapping[str, Any] | None) -> float:
    """Seconds that a run had taken when its checkpoint was written; 0 without one, or when it does not say.

    What was done after it and lost is not counted.
    """
    states = (checkpoint or {}).get("callbacks", {})
    return float(states.get(Progress.__qualname__, {}).get("seconds", 0.0))
