"""How the learning rate changes within a run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_cosine_schedule_with_warmup

from threeshnet.errors import ConfigError

Make = Callable[..., LRScheduler]


def cosine(optimizer: Optimizer, *, steps: float, warm_up_share: float = 0.05) -> LRScheduler:
    """From 0 up in a straight line, in the first `warm_up_share` of the steps, then down to 0 along half a cosine.

    Raises ConfigError for a share outside of 0 to 1, and for a run whose number of steps is not known.
    """
    if not 0 <= warm_up_share <= 1:
        raise ConfigError(f"schedule.warm_up_share={warm_up_share} is not a share between 0 and 1")
    if not math.isfinite(steps):
        raise ConfigError("schedule=cosine ends at 0 with the last step: set trainer.max_epochs or trainer.max_steps")
    return get_cosine_schedule_with_warmup(optimizer, round(warm_up_share * steps), int(steps))


def scheduled(make: Make, optimizer: Optimizer, steps: Callable[[], float]) -> dict[str, Any]:
    """What Lightning is told: a schedule that takes `steps`, those of the whole run, moves every step, others an epoch.

    `steps` is a function: to count them, the data is opened.
    """
    if "steps" in inspect.signature(make).parameters:
        return {"scheduler": make(optimizer, steps=steps()), "interval": "step"}
    return {"scheduler": make(optimizer), "interval": "epoch"}


def steps_of_run(trainer: pl.Trainer, batches: int) -> float:
    """Optimizer steps of a whole run with so many batches an epoch; infinity when nothing ends it.

    Not `trainer.estimated_stepping_batches`: that opens the loader before Lightning knows where a resumed run stands
    in the epoch, and the position in the checkpoint is then never given to it.
    """
    limit = trainer.limit_train_batches or 1.0
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    steps = epochs * -(-batches // trainer.accumulate_grad_batches)
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)
