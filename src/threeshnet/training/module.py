"""Training of both encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from threeshnet.encoders.model import RetrievalModel
from threeshnet.errors import ConfigError
from threeshnet.metrics.recalls import recall
from threeshnet.metrics.similarity import EmbeddingSimilarity
from threeshnet.nn.collectives import exchange_counts, process_count
from threeshnet.objectives.collapse import loss_over_collapsed
from threeshnet.objectives.gather import gather_pairs
from threeshnet.records import Batch, ImageBatch, TokenSet
from threeshnet.training.blame import loss_is_no_number
from threeshnet.training.chunks import ChunkedEncoder
from threeshnet.training.encoding import EncodingModule
from threeshnet.training.parameter_groups import parameter_groups
from threeshnet.training.schedules import scheduled, steps_of_run
from threeshnet.training.synchronize import synchronize, widen, widths

Encode = Callable[[Any], Tensor]  # a side of the batch -> embeddings [b, D]


class RetrievalModule(EncodingModule):
    """Both encoders, the objective on their embeddings, and the recalls on the dev split after each epoch.

    `optimizer` takes parameter groups, `schedule` takes the optimizer and steps once an epoch (once a step, where it
    takes `steps` too). The objective is told the epochs done with their fraction: 1.5 in the middle of the second.
    `chunk` pairs of each process are encoded at a time, null all at once: the same step, slower, in less memory. With
    `sync_batchnorm` BatchNorm takes its statistics from the batch of all processes, so that a run does not depend on
    how many they are.
    `compile` names the backend of `torch.compile` that training steps go through, null for none; the model itself, and
    with it scoring and checkpoints, stays as it is.
    `card` is what a checkpoint needs to say about the model so that `load_model` can build it again.
    """

    OVER_COLLAPSED = "loss_over_collapsed"  # name of the loss as a share of that of equal embeddings

    def __init__(
        self,
        *,
        model: RetrievalModel,
        objective: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[..., Any],
        learning_rate: float,
        pretrained_factor: float,
        chunk: int | None = None,
        sync_batchnorm: bool = True,
        compile: str | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model=model)
        if chunk is not None and chunk < 1:
            raise ConfigError(f"optimization.chunk={chunk} must be at least 1; null encodes the whole batch at once")
        if chunk and compile:
            raise ConfigError(
                f"optimization.chunk={chunk} leaves the encoders halfway, trainer.compile={compile} takes them whole: "
                "set one of them to null"
            )
        self.chunk, self.sync_batchnorm, self.compile_by = chunk, sync_batchnorm, compile
        self.ways: tuple[Encode, Encode] | None = None  # in which images and captions are encoded, if not plainly
        self.synchronized = False
        self.objective = objective
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.learning_rate, self.pretrained_factor = learning_rate, pretrained_factor
        self.card = dict(card or {})

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.prepare()

    def prepare(self) -> None:
        """Everything that is decided once it is known how many processes there are.  Raises ConfigError."""
        self.share_statistics()
        self.choose_ways()

    def share_statistics(self) -> None:
        """Lets BatchNorm look at the whole batch where that does not lie in one place.  Raises ConfigError."""
        processes = process_count()
        shared = self.sync_batchnorm and processes > 1
        if self.synchronized or not (shared or self.chunk):
            return
        if not shared and processes > 1:
            raise ConfigError(
                f"optimization.chunk={self.chunk} shares BatchNorm's statistics: with {processes} processes set "
                "trainer.sync_batchnorm=true, or optimization.chunk=null"
            )
        synchronize(self.model)
        self.synchronized = True

    def choose_ways(self) -> None:
        """In chunks, compiled, or plainly. Torch looks for no modules in a tuple: no weight has a second name."""
        images, captions = self.model.image_encoder, self.model.text_encoder
        if self.chunk:
            self.ways = ChunkedEncoder(images, rows=self.chunk), ChunkedEncoder(captions, rows=self.chunk)
        elif self.compile_by:
            self.ways = torch.compile(images, backend=self.compile_by), torch.compile(captions, backend=self.compile_by)

    def on_fit_start(self) -> None:
        if self.global_rank:  # all processes were seeded alike, and would drop the same neurons of different pairs
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def loss(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The objective's named numbers of the batch of all processes, of which `batch` is this one's share.

        Beside them the loss as a share of what it would be if all embeddings were equal.
        """
        shares = exchange_counts([len(batch.rows), *widths(batch)], batch.rows.device)
        if self.synchronized:
            batch = widen(batch, [max(column) for column in zip(*shares, strict=True)][1:])
        elif len(shares) > 1 and min(shares)[0] == 1:  # all processes know, so none waits for one that failed
            raise ConfigError(
                "a process has a single pair, of which BatchNorm makes no statistics: set trainer.sync_batchnorm=true, "
                "batches.drop_last=true or a larger batches.batch_size"
            )
        encode_images, encode_captions = self.ways or (self.model.image_encoder, self.model.text_encoder)
        sides = encode_images(batch.images), encode_captions(batch.captions)
        images, captions, owners = gather_pairs(*sides, batch.owners, [share[0] for share in shares])
        with torch.autocast(images.device.type, enabled=False):  # a hardest negative is told from the next by 1e-3
            numbers = self.objective(images, captions, owners, epoch)
            share = loss_over_collapsed(numbers["loss"], self.objective, images, owners, epoch)
        return {**numbers, self.OVER_COLLAPSED: share}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        numbers = self.loss(batch, self.current_epoch + batch_idx / self.trainer.num_training_batches)
        if not torch.isfinite(numbers["loss"]):
            where = f"step {self.global_step} (epoch {self.current_epoch})"
            dataset = getattr(self.trainer.train_dataloader, "dataset", None)
            raise loss_is_no_number(numbers["loss"].item(), where, batch, dataset)
        self.log_dict({f"train/{name}": value.detach() for name, value in numbers.items()}, prog_bar=True)
        return {name: numbers[name] for name in ("loss", self.OVER_COLLAPSED)}

    def on_validation_epoch_start(self) -> None:
        self.collect_anew()

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

    def batches_of_epoch(self) -> int:
        """Of this process, as of every other."""
        return len(self.datamodule.train_dataloader())

    def configure_optimizers(self) -> dict[str, Any]:
        groups = parameter_groups(self, learning_rate=self.learning_rate, pretrained_factor=self.pretrained_factor)
        optimizer = self.make_optimizer(groups)
        schedule = scheduled(self.make_schedule, optimizer, lambda: steps_of_run(self.trainer, self.batches_of_epoch()))
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["threeshnet"] = self.card
