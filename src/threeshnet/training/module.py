"""Training of both encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from threeshnet.encoders.model import RetrievalModel
from threeshnet.errors import DataError
from threeshnet.metrics.recalls import recall
from threeshnet.metrics.similarity import EmbeddingSimilarity
from threeshnet.records import Batch, ImageBatch, TokenSet
from threeshnet.training.collect import Collector
from threeshnet.training.encoding import EncodingModule
from threeshnet.training.parameter_groups import parameter_groups


class RetrievalModule(EncodingModule):
    """Both encoders, the objective on their embeddings, and the recalls on the dev split after each epoch.

    `optimizer` takes parameter groups, `schedule` takes the optimizer and steps once an epoch. `card` is what a
    checkpoint needs to say about the model so that `load_model` can build it again.
    """

    def __init__(
        self,
        *,
        model: RetrievalModel,
        objective: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[..., Any],
        learning_rate: float,
        pretrained_factor: float,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model=model)
        self.objective = objective
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.learning_rate, self.pretrained_factor = learning_rate, pretrained_factor
        self.card = dict(card or {})

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images = self.everywhere(self.model.image_encoder(batch.images))
        captions = self.everywhere(self.model.text_encoder(batch.captions))
        numbers = self.objective(images, captions, self.everywhere(batch.owners), self.current_epoch)
        if not torch.isfinite(numbers["loss"]):
            rows = batch.rows.tolist()
            raise DataError(
                f"the loss is {numbers['loss'].item()} at step {self.global_step} (epoch {self.current_epoch}); "
                f"captions of the batch: {rows[:8]}… A NaN in the shards or too high a learning rate does this; "
                "checkpoints before it are whole."
            )
        self.log_dict({f"train/{name}": value.detach() for name, value in numbers.items()}, prog_bar=True)
        return numbers["loss"]

    def everywhere(self, rows: Tensor) -> Tensor:
        """Rows of all processes, in rank order and with gradient: negatives come from the global batch.

        The gradient of the gathered rows is summed over the processes on the way back and then averaged by DDP, so that
        it is that of one process with the whole batch.
        """
        if self.trainer.world_size == 1:
            return rows
        gathered = self.all_gather(rows, sync_grads=rows.is_floating_point())
        assert isinstance(gathered, Tensor)
        return gathered.flatten(0, 1)

    def on_validation_epoch_start(self) -> None:
        self._collectors = (Collector(), Collector())

    def validation_step(
        self, batch: tuple[ImageBatch | TokenSet, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """One batch of the dev split, as in `test_step`."""
        self.test_step(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        name = self.split_name("dev")
        if self.trainer.sanity_checking or name is None:
            return
        images, captions = self.gather(name)
        found = recall(EmbeddingSimilarity(images, captions), self.datamodule.split(name).owners)
        numbers = {f"dev/{side}_{key}": found[side][key] for side in ("i2t", "t2i") for key in found[side]}
        self.log_dict(numbers | {"dev/rsum": found["rsum"]}, rank_zero_only=False, sync_dist=False)
        self.log("dev_rsum", found["rsum"], prog_bar=True, logger=False)

    def configure_optimizers(self) -> dict[str, Any]:
        groups = parameter_groups(self, learning_rate=self.learning_rate, pretrained_factor=self.pretrained_factor)
        optimizer = self.make_optimizer(groups)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_schedule(optimizer), "interval": "epoch"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["threeshnet"] = self.card
