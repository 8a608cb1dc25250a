"""Runs in which everything is drawn into one point are told of, and others are not; and the experiment about them."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader

from threeshnet.runs.run import Run
from threeshnet.training.module import RetrievalModule
from threeshnet.training.monitoring import CollapseWatch

from ..scripts import loaded

COLLAPSE = Path(__file__).parents[2] / "experiments/collapse"


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
        ([(0.5, 0.4), (0.96, 0.97), (1.1, 0.99), (1.0, 0.9), (1.0, 1.0)], [3]),
        ([(0.5, 0.4), (0.3, 0.2)], []),
    ],
)
def test_the_first_epoch_that_told_nothing_apart_is_named(
    shares: list[tuple[float, float]], epochs: list[int], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    steps: dict[str, Any] = {"max_epochs": len(shares), "accelerator": "cpu", "default_root_dir": tmp_path}
    trainer = pl.Trainer(callbacks=[CollapseWatch()], enable_checkpointing=False, **steps, **quiet)
    with caplog.at_level(logging.WARNING, logger="threeshnet.training.monitoring"):
        trainer.fit(Given(shares), DataLoader([0, 1]))
    told = [record.getMessage() for record in caplog.records if record.name == "threeshnet.training.monitoring"]
    assert [int(line.split(":")[0].removeprefix("epoch ")) for line in told] == epochs
    assert all("warm_up_epochs" in line for line in told)


# --- experiments/collapse


@pytest.fixture(scope="module")
def curves() -> ModuleType:
    return loaded(COLLAPSE / "curves.py")


def write_run(folder: Path, losses: list[float], *, warm_up: int, seed: int = 0) -> None:
    """Two epochs of two steps of a batch of four: equal embeddings cost 2 * 0.2 * 4 = 1.6, or 4.8 while warming up."""
    (folder / "log").mkdir(parents=True)
    objective = {"_target_": "threeshnet.objectives.triplet.TripletLoss", "margin": 0.2, "warm_up_epochs": warm_up}
    settings = {"objective": objective, "fusion": {}, "batches": {"batch_size": 4}, "seed": seed}
    OmegaConf.save(OmegaConf.create(settings), folder / "config.yaml")
    scores = {"rsum": 200.0 + seed, "steps": 4, "epochs": 2, "checkpoint": "abc", "commit": "def"}
    scores |= {side: {"R@1": 1.0, "R@5": 2.0, "R@10": 3.0} for side in ("i2t", "t2i")}
    (folder / "metrics.json").write_text(json.dumps(scores))
    (folder / "job.json").write_text(json.dumps({"experiment": "region_demo", "setting": "demo"}))
    with (folder / "log" / "metrics.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["dev/rsum", "epoch", "step", "train/loss"])
        writer.writerows([["", step // 2, step, loss] for step, loss in enumerate(losses)])
        writer.writerow([150.0, 1, 3, ""])


def test_the_share_of_every_epoch(curves: ModuleType, tmp_path: Path) -> None:
    write_run(tmp_path / "run", [4.8, 2.4, 1.6, 0.8], warm_up=1)
    rows = curves.rows_of(Run(tmp_path / "run"))
    assert [(row["epoch"], float(row["share"])) for row in rows] == [("0", 0.75), ("1", 0.75)]
    assert [row["dev_rsum"] for row in rows] == ["", "150.0"]
    assert (rows[0]["guidance"], rows[0]["objective"]) == ("without", "triplet")


def test_rows_are_collected_once_and_give_the_same_files(curves: ModuleType, tmp_path: Path) -> None:
    for seed in (0, 10):
        write_run(tmp_path / "runs" / str(seed), [1.0, 1.0, 1.0, 1.6], warm_up=0, seed=seed)
    (tmp_path / "page").mkdir()
    shutil.copytree(tmp_path / "runs" / "0", tmp_path / "runs" / "shared" / "0")  # studies share runs
    files = []
    for arguments in (["--collect", str(tmp_path / "runs")], ["--collect", str(tmp_path / "runs" / "10")], []):
        curves.main(arguments, tmp_path / "page")
        files.append({file.name: file.read_bytes() for file in (tmp_path / "page").iterdir()})
    assert files[0] == files[1] == files[2]
    assert files[0]["curves.csv"].count(b"\n") == 1 + 2 * 2


def test_the_committed_rows_give_the_committed_files(curves: ModuleType, tmp_path: Path) -> None:
    shutil.copytree(COLLAPSE, tmp_path / "page")
    curves.main([], tmp_path / "page")
    for name in ("curves.csv", "figure.png"):
        assert (tmp_path / "page" / name).read_bytes() == (COLLAPSE / name).read_bytes(), name
