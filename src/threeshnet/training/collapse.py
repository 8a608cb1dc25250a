"""Says when a run has drawn everything into one point."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_only

from threeshnet.training.module import RetrievalModule

log = logging.getLogger(__name__)
COLLAPSED = 0.97  # of the loss of equal embeddings, as the mean of an epoch


class CollapseWatch(Callback):
    """Warns once, after the first epoch in which the loss was that of equal embeddings; every run begins near it.

    Such a run goes on: it may recover, and its ranks are better than chance, since they need differences alone. But
    what is compared then is how far each run came out again, and that is a matter of seeds.
    """

    def __init__(self) -> None:
        self.total, self.steps, self.told = 0.0, 0, False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.total, self.steps = 0.0, 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.total, self.steps = self.total + outputs[RetrievalModule.OVER_COLLAPSED], self.steps + 1

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        mean = float(self.total) / max(self.steps, 1)
        if trainer.current_epoch > 0 and mean >= COLLAPSED and not self.told:
            self.told = True
            log.warning(
                "epoch %d: the loss is %.0f%% of what it would be if all embeddings were equal. The hardest negatives "
                "draw everything into one point when they come too early: set a longer warm_up_epochs, or "
                "objective=infonce (docs/guides/options.md)",
                trainer.current_epoch + 1,
                100 * mean,
            )
