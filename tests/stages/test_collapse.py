"""Runs in which everything is drawn into one point are told of, and others are not."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from threeshnet.training.collapse import CollapseWatch
from threeshnet.training.module import RetrievalModule


class Given(pl.LightningModule):
    """Two steps an epoch whose losses are these shares of the loss of equal embeddings."""

    def __init__(self, shares: list[tuple[float, float]]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.shares = shares

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        share = self.shares[self.current_epoch][batch_idx]
        return {"loss": self.weight * 1.0, RetrievalModule.OVER_COLLAPSED: torch.tensor(share)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(
    ("shares", "epochs"),
    [
        ([(1.0, 1.0), (0.9, 0.9)], []),  # every run begins so
        ([(0.5, 0.4), (1.1, 0.99), (0.96, 1.0), (1.0, 0.9)], [2, 3]),
        ([(0.5, 0.4), (0.3, 0.2)], []),
    ],
)
def test_epochs_that_told_nothing_apart_are_named(
    shares: list[tuple[float, float]], epochs: list[int], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    steps: dict[str, Any] = {"max_epochs": len(shares), "accelerator": "cpu", "default_root_dir": tmp_path}
    trainer = pl.Trainer(callbacks=[CollapseWatch()], enable_checkpointing=False, **steps, **quiet)
    with caplog.at_level(logging.WARNING, logger="threeshnet.training.collapse"):
        trainer.fit(Given(shares), DataLoader([0, 1]))
    told = [record.getMessage() for record in caplog.records if record.name == "threeshnet.training.collapse"]
    assert [int(line.split(":")[0].removeprefix("epoch ")) for line in told] == epochs
    assert all("warm_up_epochs" in line for line in told)
