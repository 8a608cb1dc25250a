"""What happens around the steps: random states in checkpoints, and the facts of a run."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback


class RandomStates(Callback):
    """Keeps Python's, NumPy's and torch's random states in checkpoints, so that a resumed run draws the same numbers.

    A state belongs to a process; a checkpoint holds those of rank 0, and other ranks keep their own seed on resume.
    """

    def __init__(self) -> None:
        self.restored: dict[str, Any] | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        kind, keys, *rest = np.random.get_state()  # noqa: NPY002  (the state of the global generator, used by libraries)
        checkpoint["random_states"] = {
            "python": list(random.getstate()[1]),
            "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *map(float, rest)],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.restored = checkpoint.get("random_states")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """After everything else that draws numbers at the start of a run; in mid-epoch too, where no epoch starts."""
        states, self.restored = self.restored, None
        if states is None or trainer.global_rank != 0:
            return
        version, _, gauss = random.getstate()
        random.setstate((version, tuple(states["python"]), gauss))
        kind, keys, position, has_gauss, cached = states["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), int(position), int(has_gauss), cached))  # noqa: NPY002
        torch.set_rng_state(states["torch"])
        if states["cuda"]:
            torch.cuda.set_rng_state_all(states["cuda"])


class StepClock(Callback):
    """Seconds a training step takes, and how much of them it waits for data; logged every epoch."""

    def __init__(self) -> None:
        self.waited = self.worked = 0.0
        self.steps = 0
        self.mark = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.mark = time.perf_counter()  # a run resumed in mid-epoch starts no epoch first

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.waited = self.worked = 0.0
        self.steps, self.mark = 0, time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self.waited, self.mark = self.waited + now - self.mark, now

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        now = time.perf_counter()
        self.worked, self.mark, self.steps = self.worked + now - self.mark, now, self.steps + 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.steps:
            whole = self.worked + self.waited
            pl_module.log("time/step_seconds", whole / self.steps)
            pl_module.log("time/share_waiting_for_data", self.waited / whole)
