"""Learning rates: of groups of parameters, and over a run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import get_cosine_schedule_with_warmup

from threeshnet.errors import ConfigError

Make = Callable[..., LRScheduler]


@dataclass(frozen=True)
class Optimization:
    """How a model learns: `optimizer` takes parameter groups, `schedule` takes the optimizer.

    A schedule that takes `steps` too, those of the whole run, moves every step, others every epoch.
    """

    optimizer: Callable[..., Optimizer]
    schedule: Make
    learning_rate: float
    pretrained_factor: float  # the pretrained part of the text encoder learns at this share of the rate


def cosine(optimizer: Optimizer, *, steps: float, warm_up_share: float = 0.05) -> LRScheduler:
    """A linear warm-up from 0 in the first `warm_up_share` of the steps, then half a cosine down to 0.

    Raises ConfigError for a share outside of 0 to 1, and for a run without a limit of steps.
    """
    if not 0 <= warm_up_share <= 1:
        raise ConfigError(f"schedule.warm_up_share={warm_up_share} is not a share between 0 and 1")
    if not math.isfinite(steps):
        raise ConfigError("schedule=cosine ends at 0 with the last step: set trainer.max_epochs or trainer.max_steps")
    return get_cosine_schedule_with_warmup(optimizer, round(warm_up_share * steps), int(steps))


def scheduled(make: Make, optimizer: Optimizer, steps: Callable[[], float]) -> dict[str, Any]:
    """The schedule in the form that Lightning takes; see `Optimization`.

    `steps` is a function, since counting them opens the data.
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


def parameter_groups(module: nn.Module, *, learning_rate: float, pretrained_factor: float) -> list[dict[str, Any]]:
    """Two groups: new weights at `learning_rate`, a text encoder's `pretrained_part` at a share of that rate.

    The authors train BERT at a tenth of the rate (3SHNet, section 4.2). Weight decay is the same for all, as there.
    """
    trained = [getattr(part, "pretrained_part", None) for part in module.modules()]
    slow = {id(parameter) for part in trained if part is not None for parameter in part.parameters()}
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    new = [parameter for parameter in learning if id(parameter) not in slow]
    old = [parameter for parameter in learning if id(parameter) in slow]
    groups = [{"params": new, "lr": learning_rate, "name": "new"}]
    if old:
        groups.append({"params": old, "lr": learning_rate * pretrained_factor, "name": "pretrained"})
    return groups
