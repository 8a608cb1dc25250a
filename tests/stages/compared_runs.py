"""What is compared of two runs that are to be the same."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from threeshnet.training.module import RetrievalModule

STAGES = {"training": "training", "validation": "validating", "test": "testing"}
IMAGES = 6  # of the 24 to train on, with five captions each: VSpM takes most of a step, and more for more images
BATCH = 7  # captions: the two that are left over make no batch
STEPS = 5 * IMAGES // BATCH


class Killed(BaseException):
    """What stands for a process that is gone."""


@contextmanager
def at_step(step: int, act: Callable[[], Any], where: str = "training") -> Iterator[None]:
    """Lets something happen before a step (or in the first validation or test after it)."""
    original = getattr(RetrievalModule, f"{where}_step")

    def acting(self: RetrievalModule, *arguments: Any) -> Any:
        if self.trainer.global_step == step and getattr(self.trainer, STAGES[where]):
            act()
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RetrievalModule, f"{where}_step", acting)
        yield


def checkpoint(out: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(out / "checkpoints" / f"{name}.ckpt", weights_only=True)


def check_same_run(one: Path, other: Path) -> None:
    """Weights, optimizer, schedule, random numbers, the best score, the scores and the logged steps, bit for bit."""
    for name in ("best", "last"):
        left, right = checkpoint(one, name), checkpoint(other, name)
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "random_states", "global_step", "epoch"):
            assert_equal(left[part], right[part], f"{name}: {part}")
    assert best_score(left) == best_score(right)
    scores = [json.loads((out / "metrics.json").read_text()) for out in (one, other)]
    assert [score["rsum"] for score in scores] == [scores[0]["rsum"]] * 2
    assert scores[0]["i2t"] == scores[1]["i2t"]
    assert logged(one, "train/loss") == list(range(2 * STEPS))
    assert logged(one, "dev/rsum") == [STEPS - 1, 2 * STEPS - 1]


def assert_equal(left: Any, right: Any, where: str) -> None:
    if isinstance(left, Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key, value in left.items():
            assert_equal(value, right[key], f"{where}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for number, pair in enumerate(zip(left, right, strict=True)):
            assert_equal(*pair, f"{where}[{number}]")
    else:
        assert left == right, where


def best_score(content: dict[str, Any]) -> float:
    """The best score that a checkpoint knows of."""
    (state,) = (value for key, value in content["callbacks"].items() if "ModelCheckpoint" in key and "dev/rsum" in key)
    return float(state["best_model_score"])


def logged(out: Path, name: str) -> list[int]:
    """The steps with a number of that name in metrics.csv, in the file's order."""
    with (out / "log" / "metrics.csv").open(newline="") as opened:
        return [int(row["step"]) for row in csv.DictReader(opened) if row[name]]
