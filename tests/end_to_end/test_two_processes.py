"""Two real processes over gloo: the same training as in one, and every item scored once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from threeshnet.training.csv_log import rows_of

from ..forks import Forks

FEW = "batches.limit_train_images=12"  # of 60 captions: three batches of 16 and some that are left over


def test_two_processes_train_as_one(forks: Forks, synthetic_shards: Path, small: list[str], tmp_path: Path) -> None:
    """Equal global batch, no dropout: equal losses in two epochs, and an equal fit of the kernel branch."""
    model = [
        "experiment=region_coco",
        *small,
        "features=grid_kernel",
        "text=bigru",
        "parts=[local,fused]",
        "fusion=[spatial]",
    ]
    settings = [*model, "trainer.max_epochs=2", "trainer.log_every_n_steps=1", "highlights=0", FEW]
    logs, fits = [], []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        words = [*settings, f"shards={synthetic_shards}", f"trainer.devices={processes}", f"out={folder / 'run'}"]
        ended = forks.run("train", words, folder=folder, processes=processes, seconds=500)
        assert ended.code == 0, ended.err[-5000:]
        rows = rows_of(folder / "run" / "log" / "metrics.csv")
        state = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        fits.append(state["model.image_encoder.branches.kernel.pooling.coefficients"])
        logs.append([float(row["train/loss"]) for row in rows if "train/loss" in row])
    assert len(logs[0]) == 2 * (60 // 16)
    assert logs[1] == pytest.approx(logs[0], rel=1e-4)
    torch.testing.assert_close(fits[1], fits[0], rtol=0.05, atol=1e-3)
    assert fits[0].abs().max() > 0.02


@pytest.fixture(scope="module")
def run(forks: Forks, tmp_path_factory: pytest.TempPathFactory, demo_shards: Path, small: list[str]) -> Path:
    """An epoch of the hybrid through the command; 12 dev and 12 test photos do not divide into batches of 5."""
    folder = tmp_path_factory.mktemp("ddp")
    devices = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=1", "trainer.log_every_n_steps=1"]
    sizes = ["batches.evaluation_batch_size=5", "batches.workers=1", "highlights=1", FEW]
    settings = [*small, *devices, *sizes, f"shards={demo_shards}", f"out={folder / 'run'}"]
    ended = forks.run("train", ["experiment=hybrid_demo", *settings], folder=folder, processes=2, seconds=500)
    assert ended.code == 0, ended.err[-5000:]
    made = sorted(path.name for path in folder.iterdir())
    assert made == ["err.txt", "out.txt", "run"]  # the second process works where the first does
    return folder / "run"


def test_the_command_finishes_and_counts_every_item_once(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["images"], metrics["captions"], metrics["split"]) == (12, 60, "test")
    assert (metrics["steps"], metrics["epochs"], metrics["batch_size"]) == (60 // 16, 1, 16)
    assert (run / "checkpoints" / "best.ckpt").exists()
    assert list((run / "highlights").glob("*.png"))
    rows = rows_of(run / "log" / "metrics.csv")
    assert [int(row["step"]) for row in rows if "train/loss" in row] == list(range(60 // 16))  # one process writes


@pytest.mark.parametrize("split", ["dev", "test"])
def test_the_scores_are_those_of_the_checkpoint(
    run: Path, demo_shards: Path, command, tmp_path: Path, split: str
) -> None:
    """Dev is scored in training, with BatchNorm statistics that must be those that are saved."""
    checkpoint = run / "checkpoints" / "best.ckpt"
    settings = [f"checkpoint={checkpoint}", f"shards={demo_shards}", f"split={split}", f"out={tmp_path}"]
    ended = command("evaluate", *settings, "workers=0", "accelerator=cpu")
    assert ended.code == 0, ended.err
    found = json.loads((tmp_path / "metrics.json").read_text())
    if split == "test":
        expected = json.loads((run / "metrics.json").read_text())
        assert (found["i2t"], found["t2i"]) == (expected["i2t"], expected["t2i"])
        return
    (row,) = [row for row in rows_of(run / "log" / "metrics.csv") if "dev/rsum" in row]
    assert found["rsum"] == pytest.approx(float(row["dev/rsum"]))
    for side in ("t2i", "i2t"):
        assert found[side]["mean_rank"] == pytest.approx(float(row[f"dev/{side}_mean_rank"]))
