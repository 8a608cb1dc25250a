"""Runs that are killed, signalled and failed for real: a sample of what `make kills` and `make faults` do."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ..forks import Forks, Started

FAULTS = ["a shard shrinks", "a loader's worker is killed"]


def called(forks: Forks, program: str, *arguments: str, folder: Path) -> None:
    ended = forks.run(f"experiments.benchmarks.interruptions.{program}", arguments, folder=folder, seconds=500)
    assert ended.code == 0, ended.out[-3000:] + ended.err[-3000:]


def test_a_chain_of_kills(forks: Forks, tmp_path: Path) -> None:
    words = ["--kills", "2", "--chain", "2", "--epochs", "2", "--csv", str(tmp_path / "kills.csv")]
    called(forks, "kills", *words, folder=tmp_path)
    rows = list(csv.DictReader((tmp_path / "kills.csv").open(newline="")))
    assert [(row["kind"], row["equal"]) for row in rows][-1] == ("to the end", "True")
    assert len(rows) == 3


def test_faults(forks: Forks, tmp_path: Path) -> None:
    called(forks, "faults", "--epochs", "2", "--out", str(tmp_path), "--only", *FAULTS, folder=tmp_path)
    rows = json.loads((tmp_path / "faults.json").read_text())
    assert {name: row["lost"] for name, row in rows.items()} == dict.fromkeys(FAULTS, "nothing")


# ---- a signal to one of two processes


def train(forks: Forks, folder: Path, shards: Path, *overrides: str) -> Started:
    """In two processes, each with a loader worker."""
    settings = ["text=tiny", "dim=32", "batches.batch_size=16", "batches.workers=1", "trainer.max_epochs=2"]
    devices = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.enable_progress_bar=false", "highlights=0"]
    words = [*settings, *devices, "trainer.log_every_n_steps=1", f"shards={shards}", f"out={folder / 'run'}"]
    return forks.start("train", ["experiment=region_coco", *words, *overrides], folder=folder, processes=2)


def wait_for(file: Path) -> None:
    until = time.monotonic() + 200
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(forks: Forks, tmp_path_factory: pytest.TempPathFactory, synthetic_shards: Path) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = forks.wait(train(forks, folder, synthetic_shards), seconds=300)
    assert ended.code == 0, ended.err
    return folder / "run"


def weights(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def children(process: int) -> set[int]:
    """Of all its threads."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return {int(number) for task in tasks for number in task.read_text().split()}


def test_a_signal_to_one_of_two_processes(
    forks: Forks, undisturbed: Path, synthetic_shards: Path, tmp_path: Path
) -> None:
    """And to all loader workers, as torchrun and schedulers send it.

    Both leave at the same step, everything is saved, and the run that goes on is the undisturbed one.
    """
    started = train(forks, tmp_path, synthetic_shards, "checkpoints.steps=1")
    wait_for(tmp_path / "run" / "checkpoints" / "last.ckpt")
    workers = [child for process in started.processes for child in children(process)]
    assert len(workers) >= 2
    for process in (started.processes[0], *workers):
        os.kill(process, signal.SIGTERM)
    ended = forks.wait(started, seconds=300)
    assert ended.code == 75, ended.err
    assert "SIGTERM: left after step " in ended.err
    ended = forks.wait(train(forks, tmp_path, synthetic_shards, "resume=true"), seconds=300)
    assert ended.code == 0, ended.err
    metrics, expected = (json.loads((run / "metrics.json").read_text()) for run in (tmp_path / "run", undisturbed))
    assert 0 < metrics["resumed_at_step"] < metrics["steps"] == expected["steps"]
    assert (metrics["i2t"], metrics["t2i"]) == (expected["i2t"], expected["t2i"])
    found, same = weights(tmp_path / "run"), weights(undisturbed)
    assert found.keys() == same.keys()
    assert all(torch.equal(found[name], same[name]) for name in same)
