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
from threeshnet.threads import adapt_threads
from threeshnet.training.averaging import AveragedWeights
from threeshnet.training.encoding import EncodingModule
from threeshnet.training.kernel_branches import KernelBranches
from threeshnet.training.large_batch import ChunkedEncoder
from threeshnet.training.nonfinite import nonfinite_loss
from threeshnet.training.schedules import Optimization, parameter_groups, scheduled, steps_of_run
from threeshnet.training.synchronize import synchronize, widen, widths

Encode = Callable[[Any], Tensor]  # a side of the batch -> embeddings [b, D]


class RetrievalModule(EncodingModule):
    """Trains both encoders by an objective on their embeddings, and scores the dev split after each epoch.

    The objective gets the finished epochs with their fraction: 1.5 in the middle of the second. `chunk` pairs of each
    process are encoded at a time, None all at once: the same step, slower, in less memory. With `sync_batchnorm`,
    BatchNorm takes its statistics from the batch of all processes, so a run does not depend on their number. `compile`
    names the backend of `torch.compile` for training steps, None for none; scoring and checkpoints use the plain model.
    `card` describes the model in checkpoints, so that `load_model` can build it again.
    """

    OVER_COLLAPSED = "loss_over_collapsed"  # name of the loss as a share of that of equal embeddings

    def __init__(
        self,
        *,
        model: RetrievalModel,
        objective: nn.Module,
        optimization: Optimization,
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
        self.encoders: tuple[Encode, Encode] | None = None  # of training, None for the plain ones
        self.synchronized = False
        self.objective, self.optimization = objective, optimization
        self.card = dict(card or {})
        self.kernels = KernelBranches(model)

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.prepare()

    def prepare(self) -> None:
        """Decide all that depends on the number of processes.  Raises ConfigError."""
        self.share_statistics()
        self.choose_encoders()

    def share_statistics(self) -> None:
        """Give BatchNorm the statistics of the whole batch where each process has a part.  Raises ConfigError."""
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

    def choose_encoders(self) -> None:
        """Encode in chunks, compiled, or plainly. Torch finds no modules in a tuple, so no weight has a second name."""
        images, captions = self.model.image_encoder, self.model.text_encoder
        if self.chunk:
            self.encoders = ChunkedEncoder(images, rows=self.chunk), ChunkedEncoder(captions, rows=self.chunk)
        elif self.compile_by:
            images, captions = (torch.compile(side, backend=self.compile_by) for side in (images, captions))
            self.encoders = images, captions

    def on_fit_start(self) -> None:
        if self.kernels and any(isinstance(each, AveragedWeights) for each in self.trainer.callbacks):  # pyright: ignore[reportAttributeAccessIssue]
            raise ConfigError("averaging=ema would average the fits of the kernel branch: set averaging=null")
        self.train()  # a pre-trained BERT comes in evaluation mode, and Lightning keeps that: it had no dropout
        if self.global_rank:  # processes with one seed would drop the same neurons of different pairs
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def on_train_start(self) -> None:
        if prepare := getattr(self.objective, "prepare", None):  # an objective that reads the training captions
            loader = self.trainer.train_dataloader
            assert loader is not None
            data = loader.dataset
            prepare([data.texts[row] for row in data.rows], data.owners[data.rows])
        if self.kernels:
            self.kernels.keep_photos(self.trainer.train_dataloader.dataset, self.device)  # pyright: ignore[reportOptionalMemberAccess]

    def loss(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The objective's named numbers of the batch of all processes; `batch` is the share of this one.

        `loss_over_collapsed` is the loss divided by that of equal embeddings.
        """
        shares = exchange_counts([len(batch.rows), *widths(batch)], batch.rows.device)
        if self.synchronized:
            batch = widen(batch, [max(column) for column in zip(*shares, strict=True)][1:])
        elif len(shares) > 1 and min(shares)[0] == 1:  # all processes see it, so none waits for one that failed
            raise ConfigError(
                "a process has a single pair, of which BatchNorm makes no statistics: set trainer.sync_batchnorm=true, "
                "batches.drop_last=true or a larger batches.batch_size"
            )
        encode_images, encode_captions = self.encoders or (self.model.image_encoder, self.model.text_encoder)
        sides = encode_images(batch.images), encode_captions(batch.captions)
        images, captions, owners = gather_pairs(*sides, batch.owners, [share[0] for share in shares])
        self.kernels.observe(owners, captions)
        with torch.autocast(images.device.type, enabled=False):  # the hardest negative and the next differ by 1e-3
            numbers = self.objective(images, captions, owners, epoch)
            share = loss_over_collapsed(numbers["loss"], self.objective, images, owners, epoch)
        return {**numbers, self.OVER_COLLAPSED: share}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        adapt_threads()
        numbers = self.loss(batch, self.current_epoch + batch_idx / self.trainer.num_training_batches)
        if not torch.isfinite(numbers["loss"]):
            where = f"step {self.global_step} (epoch {self.current_epoch})"
            dataset = getattr(self.trainer.train_dataloader, "dataset", None)
            raise nonfinite_loss(numbers["loss"].item(), where, batch, dataset)
        if batch_idx + 1 == self.trainer.num_training_batches or self.global_step + 1 == self.trainer.max_steps:
            self.kernels.fit()  # before dev is scored, and before any callback saves the step
        self.log_dict({f"train/{name}": value.detach() for name, value in numbers.items()}, prog_bar=True)
        return {name: numbers[name] for name in ("loss", self.OVER_COLLAPSED)}

    def on_validation_epoch_start(self) -> None:
        self.start_collecting()

    def validation_step(
        self, batch: tuple[ImageBatch | TokenSet, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.test_step(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        name = self.split_name("dev")
        if self.trainer.sanity_checking or name is None:
            return
        images, captions = self.gather(name)
        scores = recall(EmbeddingSimilarity(images, captions), self.datamodule.split(name).owners)
        numbers = {f"dev/{side}_{key}": scores[side][key] for side in ("i2t", "t2i") for key in scores[side]}
        self.log_dict(numbers | {"dev/rsum": scores["rsum"]}, rank_zero_only=False, sync_dist=False)
        self.log("dev_rsum", scores["rsum"], prog_bar=True, logger=False)

    def configure_optimizers(self) -> dict[str, Any]:
        chosen = self.optimization
        rates = {"learning_rate": chosen.learning_rate, "pretrained_factor": chosen.pretrained_factor}
        optimizer = chosen.optimizer(parameter_groups(self, **rates))
        schedule = scheduled(
            chosen.schedule, optimizer, lambda: steps_of_run(self.trainer, len(self.datamodule.train_dataloader()))
        )
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["threeshnet"] = self.card
