"""Run as a script by test_two_processes.py: steps of a model that treats every row alike, in one or two processes.

Without BatchNorm and dropout nothing may depend on how the batch was dealt out.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from threeshnet.batches.datamodule import BatchOptions, RetrievalDataModule, Splits
from threeshnet.batches.tokenizers import SPECIALS, Wordpieces
from threeshnet.encoders.model import RetrievalModel
from threeshnet.nn.collectives import leave_together
from threeshnet.nn.masking import unit
from threeshnet.objectives.triplet import TripletLoss
from threeshnet.pooling.mean import MeanPooling
from threeshnet.records import ImageBatch, TokenSet
from threeshnet.training.module import RetrievalModule
from threeshnet.training.schedules import Optimization

WORDS = ("a", "the", "man", "dog", "cat", "red", "blue", "on", "in", "street", "snow")


class Images(nn.Module):
    """With a running statistic, which is each process's own until it is shared, and changes no embedding."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.linear, self.pooling = nn.Linear(16, 8), MeanPooling()

    def forward(self, images: ImageBatch) -> Tensor:
        assert images.regions is not None
        if self.training:
            self.seen.lerp_(images.regions.values.mean(), 0.5)
        return unit(self.pooling(TokenSet(self.linear(images.regions.values).tanh(), images.regions.mask)))


class Sentences(nn.Module):
    def __init__(self, words: int) -> None:
        super().__init__()
        self.embedding, self.pooling = nn.Embedding(words, 8), MeanPooling()

    def forward(self, captions: TokenSet) -> Tensor:
        return unit(self.pooling(TokenSet(self.embedding(captions.values), captions.mask)))


class Witness(Callback):
    """The loss of every step and the statistic at every validation, as this process sees them."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(outputs["loss"].item())

    def on_validation_end(self, trainer, pl_module) -> None:
        self.seen.append(pl_module.model.image_encoder.seen.item())


def main(shards: Path, processes: int, out: Path) -> None:
    pl.seed_everything(0, verbose=False)
    tokenizer = Wordpieces([*SPECIALS, *WORDS])
    model = RetrievalModel(image_encoder=Images(), text_encoder=Sentences(len(tokenizer)), tokenizer=tokenizer)
    module = RetrievalModule(
        model=model,
        objective=TripletLoss(mask_same_image=True),
        optimization=Optimization(
            partial(torch.optim.SGD, momentum=0.9), partial(torch.optim.lr_scheduler.StepLR, step_size=1), 0.01, 0.1
        ),
    )
    sizes, splits = BatchOptions(batch_size=16, evaluation_batch_size=4), Splits(test="testall")
    data = RetrievalDataModule(shards, tokenizer=tokenizer, fields=["region"], splits=splits, batches=sizes)
    witness = Witness()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_epochs=2,
        gradient_clip_val=2.0,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        callbacks=[witness],
        **quiet,
    )
    trainer.fit(module, datamodule=data)
    dev = float(trainer.callback_metrics["dev/rsum"])
    trainer.test(module, datamodule=data, verbose=False)
    assert module.embeddings is not None
    weights = {name: weight.tolist() for name, weight in module.named_parameters()}
    found = {"losses": witness.losses, "seen": witness.seen, "weights": weights, "dev": dev}
    found["test"] = module.embeddings.captions.tolist()
    (out / f"{trainer.global_rank}.json").write_text(json.dumps(found))
    leave_together()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
