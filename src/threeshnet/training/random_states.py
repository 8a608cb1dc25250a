"""Random states in checkpoints."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from threeshnet.errors import CheckpointError
from threeshnet.nn.collectives import gather_objects


class RandomStates(Callback):
    """Keeps Python's, NumPy's and torch's random states in checkpoints, so that a resumed run draws the same numbers.

    A checkpoint holds those of every process. When a run goes on with more processes, the new ones keep their own seed.
    Loader workers need none: what they draw is a function of (seed, epoch, caption).
    """

    def __init__(self) -> None:
        self.pending: dict[str, Any] | None = None  # of a checkpoint, until the first step
        self.before_step: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["random_states"] = gather_objects(self.pending or random_states())

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Raises CheckpointError for a checkpoint of an earlier version."""
        states = checkpoint.get("random_states")  # by rank
        if not isinstance(states, list):
            raise CheckpointError(
                "this checkpoint is of an earlier version, which kept the random states of the first process alone and "
                "its best score under another name, so the run cannot go on as if nothing had happened: begin anew in "
                "another OUT (out=<folder>); its weights can be scored by `make evaluate CKPT=<file>`"
            )
        self.pending = states[trainer.global_rank] if trainer.global_rank < len(states) else None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """After everything else that draws numbers at the start of a run; in mid-epoch too, where no epoch starts."""
        states, self.pending = self.pending, None
        if states is not None:
            set_random_states(states)
        self.before_step = states or random_states()

    def undo_step(self) -> None:
        if self.before_step is not None:
            set_random_states(self.before_step)


def random_states() -> dict[str, Any]:
    """The states of this process as weights-only loading takes them."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  (the state of the global generator, used by libraries)
    version, words, gauss = random.getstate()
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *map(float, rest)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,  # of this process's GPU
    }


def set_random_states(states: dict[str, Any]) -> None:
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), int(position), int(has_gauss), cached))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
