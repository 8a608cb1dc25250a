"""Two real processes over gloo: the same training as in one, and every item scored once."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ..forks import Forks

SCRIPT = Path(__file__).with_name("two_processes.py")


def steps(forks: Forks, shards: Path, out: Path, *, processes: int) -> list[dict[str, Any]]:
    """What each process saw."""
    out.mkdir()
    words = [str(shards), str(processes), str(out)]
    ended = forks.run(str(SCRIPT), words, folder=out, processes=processes, seconds=500)
    assert ended.code == 0, ended.err[-5000:]
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def uneven_shards(tmp_path_factory: pytest.TempPathFactory, command) -> Path:
    """9 images to score: with batches of 4 one process has two of them and the other has one."""
    out = tmp_path_factory.mktemp("uneven")
    sizes = ["images=43", "data.extractor.region_width=16", "fields=[region]"]
    ended = command("data", "data=synthetic", *sizes, f"out={out}", "progress=false", "workers=0")
    assert ended.code == 0, ended.err
    return out / "synthetic"


def test_two_processes_train_as_one(forks: Forks, uneven_shards: Path, tmp_path: Path) -> None:
    """Equal global batch: equal losses, equal weights after two epochs, equal scores, in every process."""
    (one,) = steps(forks, uneven_shards, tmp_path / "one", processes=1)
    two = steps(forks, uneven_shards, tmp_path / "two", processes=2)
    assert len(one["losses"]) == 2 * (125 // 16)
    for rank in two:
        assert rank["losses"] == pytest.approx(one["losses"], rel=1e-5)
        assert rank["dev"] == pytest.approx(one["dev"])
        for name, weight in one["weights"].items():
            torch.testing.assert_close(torch.tensor(rank["weights"][name]), torch.tensor(weight), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(torch.tensor(rank["test"]), torch.tensor(one["test"]), atol=1e-5, rtol=1e-4)
    assert two[0] == two[1]  # running statistics too, whenever dev is scored


@pytest.fixture(scope="module")
def run(forks: Forks, tmp_path_factory: pytest.TempPathFactory, demo_shards: Path, small: list[str]) -> Path:
    """An epoch of the hybrid through the command; 12 dev and 12 test photos do not divide into batches of 5."""
    folder = tmp_path_factory.mktemp("ddp")
    devices = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=1", "trainer.log_every_n_steps=1"]
    sizes = ["batches.evaluation_batch_size=5", "batches.workers=1", "highlights=1"]
    settings = [*small, *devices, *sizes, f"shards={demo_shards}", f"out={folder / 'run'}"]
    ended = forks.run("train", ["experiment=hybrid_demo", *settings], folder=folder, processes=2, seconds=500)
    assert ended.code == 0, ended.err[-5000:]
    made = sorted(path.name for path in folder.iterdir())
    assert made == ["err.txt", "out.txt", "run"]  # the second process works where the first does
    return folder / "run"


def test_the_command_finishes_and_counts_every_item_once(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["images"], metrics["captions"], metrics["split"]) == (12, 60, "test")
    assert (metrics["steps"], metrics["epochs"], metrics["batch_size"]) == (200 // 16, 1, 16)
    assert (run / "checkpoints" / "best.ckpt").exists()
    assert list((run / "highlights").glob("*.png"))
    rows = list(csv.DictReader((run / "log" / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(200 // 16))  # one process writes


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
    (row,) = [row for row in csv.DictReader((run / "log" / "metrics.csv").open()) if row["dev/rsum"]]
    assert found["rsum"] == pytest.approx(float(row["dev/rsum"]))
    assert found["t2i"]["mean_rank"] == pytest.approx(float(row["dev/t2i_mean_rank"]))
    assert found["i2t"]["mean_rank"] == pytest.approx(float(row["dev/i2t_mean_rank"]))
