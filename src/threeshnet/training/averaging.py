"""Exponential moving average (EMA) of the weights, which is validated, saved and scored."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from threeshnet.errors import ConfigError


class AveragedWeights(WeightAveraging):
    """An EMA of weights and BatchNorm buffers, with a memory of about 1 / (1 - `decay`) steps.

    After n steps the decay is min(`decay`, (n + 1) / (n + 10)), so the random start fades soon in short runs.
    Lightning's callback swaps the average in for validation and writes it to `state_dict` of checkpoints, beside the
    learning weights; a resumed run goes on with both.
    """

    def __init__(self, *, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"averaging.decay={decay} is not a share from 0 to below 1")

        def average(mean: list[Tensor], latest: list[Tensor], steps: Tensor | int) -> None:
            move(mean, latest, min(decay, (int(steps) + 1) / (int(steps) + 10)))

        super().__init__(multi_avg_fn=average)
        self.swapped = False  # whether the module holds the average, and the callback the learning weights

    def _swap_models(self, pl_module: LightningModule) -> None:
        super()._swap_models(pl_module)
        self.swapped = not self.swapped

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self.swapped:  # within an evaluation
            mean, learning = checkpoint["current_model_state"], checkpoint["state_dict"]
            checkpoint["state_dict"], checkpoint["current_model_state"] = mean, learning

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing: the checkpoint of the last step, which may be scored, must hold the learning weights too."""


@torch.no_grad()
def move(average: list[Tensor], latest: list[Tensor], decay: float) -> None:
    """average = decay * average + (1 - decay) * latest, in place; counters are taken over as they are."""
    for kept, new in zip(average, latest, strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)
