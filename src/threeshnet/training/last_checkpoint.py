"""When the last checkpoint is written, so that an interrupted run goes on exactly as an undisturbed one."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

from threeshnet.errors import CheckpointError, ConfigError, Interrupted, Problems
from threeshnet.nn.collectives import process_count
from threeshnet.runs.checkpoint_files import WholeFiles
from threeshnet.runs.resume import EPOCHS
from threeshnet.runs.run import Run
from threeshnet.training.agreement import Agreement
from threeshnet.training.csv_log import EVALUATION_PENDING, ROW
from threeshnet.training.random_states import RandomStates
from threeshnet.training.signals import Signals

log = logging.getLogger(__name__)
EVALUATION_LOOP = "epoch_loop.val_loop."
NO_LIMIT = -1  # of steps, in Lightning


class LastCheckpoint(Checkpoint):
    """Writes the last checkpoint at intervals, after each evaluation, at the end, on a signal and on an error.

    With Lightning's ModelCheckpoint in its place, runs killed between steps went on exactly, but not one killed in an
    evaluation; nor does it stop on a signal. A checkpoint within an evaluation holds the state before it, with a mark
    that the evaluation starts again. When a step fails before it changed a weight, its other changes (running
    statistics, random states, the count of batches) are undone first. All processes decide together whether to save
    and to stop, and all learn of a failed write.
    """

    def __init__(
        self,
        *,
        run: Run,
        files: WholeFiles,
        agreement: Agreement,
        signals: Signals,
        random_states: RandomStates,
        minutes: float | None = 5,
        steps: int | None = None,
    ) -> None:
        """`minutes` and `steps` between checkpoints within an epoch, None for none.  Raises ConfigError for less."""
        problems = Problems("checkpoints")
        if steps is not None and steps < 1:
            problems.add(f"checkpoints.steps={steps} must be at least 1")
        if minutes is not None and minutes < 0:
            problems.add(f"checkpoints.minutes={minutes} must be at least 0, which is after every step")
        problems.raise_as(ConfigError, "null is for none within an epoch.")
        self.file, self.files, self.agreement = run.last, files, agreement
        self.signals, self.random_states = signals, random_states
        self.minutes, self.steps = minutes, steps
        self.written = 0.0  # time of the last write, by a monotonic clock
        self.saved: tuple[int, bool] | None = None  # step of the file, and whether its evaluation is pending
        self.phase = "outside"  # | between | in a step | changing weights | evaluating
        self.buffers: tuple[list[Tensor], list[Tensor]] = ([], [])
        self.shared: list[int] = []  # evaluation batches that every process has, by loader
        self.max_steps = NO_LIMIT

    # ---- steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.take_over()
        self.written, self.phase = time.monotonic(), "between"
        of_model = [each for each in pl_module.buffers() if each.numel()]
        self.buffers = of_model, [each.clone() for each in of_model]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.phase = "in a step"
        _copy(*self.buffers)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.phase = "changing weights"

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate():  # gradients wait for the batches that belong to them
            return
        last, evaluated = loop._num_ready_batches_reached(), evaluates(trainer)
        self.phase = "evaluating" if last and evaluated else "between"
        stop, due = self.agreement.any(self.signals.received is not None, self._due(trainer))
        if last and not evaluated:
            return  # the epoch ends at once
        limit = not last and trainer.max_steps != NO_LIMIT and trainer.global_step >= trainer.max_steps
        if stop or due or limit:
            self.row = row_of_step(trainer)
            self._save(trainer, pending=last, must=limit)  # at the end of `fit` an epoch that was cut counts as done
        if stop:
            raise self._interrupted(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.epoch_loop._num_ready_batches_reached() and not evaluates(trainer):
            self._save(trainer)
            self._leave_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.phase = "outside"
        if self.saved != (trainer.global_step, False):
            self._save(trainer, must=True)

    # ---- evaluation

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.phase = "evaluating"
        self.shared = self.agreement.fewest([int(count) for count in trainer.num_val_batches])

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._stops_at(batch_idx, dataloader_idx):
            self._save(trainer, pending=True)
            raise self._interrupted(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.phase = "between"
        if self.max_steps != NO_LIMIT:
            trainer.fit_loop.epoch_loop.max_steps, self.max_steps = self.max_steps, NO_LIMIT
        self._save(trainer)
        self._leave_if_asked(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.take_over()
        self.shared = self.agreement.fewest([int(count) for count in trainer.num_test_batches])

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._stops_at(batch_idx, dataloader_idx):
            raise self._interrupted(trainer)

    # ---- what goes wrong

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the state after the last whole step, unless one of several processes may have failed alone."""
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        whole = self.phase in ("between", "in a step", "evaluating") and trainer.global_step > 0
        everywhere = process_count() == 1 or getattr(exception, "everywhere", False)
        expected = isinstance(exception, Exception) and not isinstance(exception, Interrupted | CheckpointError)
        if whole and everywhere and expected and self.saved != (trainer.global_step, self.phase == "evaluating"):
            if self.phase == "in a step":
                _copy(*reversed(self.buffers))
                self.random_states.undo_step()
            elif batches.processed > batches.completed:  # torch reports a dead worker in the middle of a save too
                self.row = row_of_step(trainer)
            self._save(trainer, pending=self.phase == "evaluating", undo=True)
        if expected and self.phase != "outside" and self.saved is not None:
            log.warning("saved: %s, of step %d", self.file, self.saved[0])

    # ---- what is written

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[EVALUATION_PENDING], checkpoint[EPOCHS] = self.pending, self._epochs(trainer)
        checkpoint[ROW], self.row = self.row, None
        loops = checkpoint["loops"]["fit_loop"]
        if self.undo:
            batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
            for state in loops["state_dict"].get("combined_loader", []):
                state["batches"] = batches.processed
            counted = trainer.global_step - int(self.pending)  # Lightning counts a step after the evaluation behind it
            loops["epoch_loop.state_dict"]["_batches_that_stepped"] = counted
            for progress in _counters(loops, but=EVALUATION_LOOP):
                progress.update(dict.fromkeys(progress, progress.get("processed", progress["completed"])))
        if self.pending:
            _before_evaluation(loops)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        pending = checkpoint.get(EVALUATION_PENDING, False)
        self.saved = checkpoint["global_step"], pending
        if pending:  # Lightning ends a run at its last step, before it evaluates
            loop = trainer.fit_loop.epoch_loop
            self.max_steps, loop.max_steps = loop.max_steps, NO_LIMIT
        else:
            _after_evaluation(checkpoint["loops"]["fit_loop"])

    row: dict[str, float] | None = None  # of the step that ends; Lightning logs it after its callbacks
    pending = undo = False  # what to change in the checkpoint that Lightning collects

    def _save(self, trainer: Trainer, *, pending: bool = False, undo: bool = False, must: bool = False) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.save()  # first, so that no saved step lacks its row
        self.pending, self.undo = pending, undo
        try:
            trainer.save_checkpoint(self.file)
        finally:
            self.pending = self.undo = False
        self.written = time.monotonic()
        if not self.agreement.any(self.files.failure is not None)[0]:
            self.saved = trainer.global_step, pending
        elif must:
            raise CheckpointError(self.files.failure or "the first process cannot write its checkpoint")
        elif self.files.failure:
            log.warning("%s. The run goes on and will try again", self.files.failure)

    def _epochs(self, trainer: Trainer) -> int:
        progress: Any = trainer.fit_loop.epoch_progress.current
        at_its_end = trainer.fit_loop.epoch_loop._num_ready_batches_reached() and not (self.pending or self.undo)
        return progress.processed + int(progress.ready > progress.processed and at_its_end)

    def _due(self, trainer: Trainer) -> bool:
        by_steps = self.steps is not None and trainer.global_step % self.steps == 0
        return by_steps or (self.minutes is not None and time.monotonic() - self.written >= 60 * self.minutes)

    def _stops_at(self, batch: int, loader: int) -> bool:
        """Whether to leave an evaluation, decided at batches that all processes have."""
        return batch < self.shared[loader] and self.agreement.any(self.signals.received is not None)[0]

    def _leave_if_asked(self, trainer: Trainer) -> None:
        if self.agreement.any(self.signals.received is not None)[0]:
            raise self._interrupted(trainer)

    def _interrupted(self, trainer: Trainer) -> Interrupted:
        step, source = trainer.global_step, self.signals.received or "another process"
        if self.saved is None:
            return Interrupted(f"{source}: left at step {step}, and nothing could be saved")
        saved = "all saved" if self.saved[0] == step else f"saved up to step {self.saved[0]}"
        return Interrupted(f"{source}: left after step {step}, {saved}")


def evaluates(trainer: Trainer) -> bool:
    """Whether the dev split is scored at the end of this epoch."""
    return trainer.fit_loop.epoch_loop._should_check_val_epoch()


def row_of_step(trainer: Trainer) -> dict[str, float] | None:
    """The row that Lightning is about to log for a step; None where it will log nothing."""
    connector = trainer._logger_connector
    if not connector.should_update_logs:
        return None
    numbers = {name: float(value) for name, value in connector.metrics["log"].items()}
    return {**numbers, "epoch": trainer.current_epoch, "step": trainer.fit_loop.epoch_loop._batches_that_stepped}


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    with torch.no_grad():
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source)


def _counters(loops: dict[str, Any], *, but: str) -> Iterator[dict[str, int]]:
    for name, state in loops.items():
        if name.startswith("epoch_loop.") and not name.startswith(but):
            yield from _trackers(state)


def _trackers(state: Any) -> Iterator[dict[str, int]]:
    if isinstance(state, dict):
        if "completed" in state:
            yield state
        else:
            for value in state.values():
                yield from _trackers(value)


def _before_evaluation(loops: dict[str, Any]) -> None:
    """Mark the evaluation as begun, so that Lightning starts it again, and the step before it as finished."""
    for progress in _counters(loops, but=EVALUATION_LOOP):
        progress.update(dict.fromkeys(progress, progress["ready"]))
    evaluation = loops[EVALUATION_LOOP + "batch_progress"]
    evaluation["total"] = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    evaluation["current"] = dict.fromkeys(evaluation["current"], 0)


def _after_evaluation(loops: dict[str, Any]) -> None:
    """Mark all evaluations as finished: one that a resume made up for has begun once more often than it ended.

    Lightning would take the counts for an evaluation that is under way, and leave out the batches that it counts.
    """
    total = loops[EVALUATION_LOOP + "batch_progress"]["total"]
    total.update(dict.fromkeys(total, total["ready"]))
