"""Training: groups, gathering, and runs that stop and go on as if nothing had been."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from threeshnet.errors import DataError
from threeshnet.objectives.triplet import TripletLoss
from threeshnet.training.collect import Collector, place
from threeshnet.training.module import RetrievalModule
from threeshnet.training.parameter_groups import parameter_groups

STEPS = 7  # batches of 16 in the 120 captions of `synthetic_shards`
VALIDATION = "validation"


# ---- parameter groups


class Text(nn.Module):
    def __init__(self, *, pretrained: bool) -> None:
        super().__init__()
        self.bert, self.linear = nn.Linear(3, 3), nn.Linear(3, 2)
        self.pretrained_part = self.bert if pretrained else None


def names_of(group: dict[str, Any], module: nn.Module) -> set[str]:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {names[id(parameter)] for parameter in group["params"]}


def test_the_pretrained_part_learns_slowly() -> None:
    both = nn.ModuleDict({"image": nn.Linear(2, 2), "text": Text(pretrained=True)})
    new, old = parameter_groups(both, learning_rate=1e-3, pretrained_factor=0.1)
    assert names_of(old, both) == {"text.bert.weight", "text.bert.bias"}
    assert names_of(new, both) == {f"{part}.{kind}" for part in ("image", "text.linear") for kind in ("weight", "bias")}
    assert (new["lr"], old["lr"]) == (1e-3, pytest.approx(1e-4))
    assert len(new["params"]) + len(old["params"]) == len(list(both.parameters()))


def test_without_a_pretrained_part_there_is_one_group() -> None:
    both = nn.ModuleDict({"image": nn.Linear(2, 2), "text": Text(pretrained=False)})
    (group,) = parameter_groups(both, learning_rate=1e-3, pretrained_factor=0.1)
    assert len(group["params"]) == len(list(both.parameters()))


def test_what_is_frozen_is_in_no_group() -> None:
    text = Text(pretrained=True)
    text.bert.requires_grad_(False)
    text.linear.bias.requires_grad_(False)
    (group,) = parameter_groups(text, learning_rate=1.0, pretrained_factor=0.1)
    assert names_of(group, text) == {"linear.weight"}


# ---- gathering


@given(data=st.data(), items=st.integers(1, 12))
def test_every_item_once_in_its_place(data: st.DataObject, items: int) -> None:
    """Dealt out in any order, in any number of parts, some of them twice."""
    numbers = data.draw(st.permutations(range(items))) + data.draw(st.lists(st.integers(0, items - 1), max_size=5))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(numbers)), max_size=3)))
    parts = [torch.tensor(part, dtype=torch.long) for part in _cut(numbers, cuts)]
    found = place([(part.float().unsqueeze(1) * 10, part) for part in parts], items)
    assert found.flatten().tolist() == [10.0 * number for number in range(items)]


def _cut(numbers: list[int], cuts: list[int]) -> list[list[int]]:
    edges = [0, *cuts, len(numbers)]
    return [numbers[start:stop] for start, stop in pairwise(edges)]


def test_an_item_that_is_missing_is_named() -> None:
    collector = Collector()
    collector.add(torch.rand(2, 3), torch.tensor([0, 2]))
    with pytest.raises(DataError, match="2 of 4 items were not encoded, the first of them number 1"):
        collector.gather(4)
    with pytest.raises(DataError, match="3 of 3"):
        Collector().gather(3)


def test_what_is_collected_is_detached_float32_in_main_memory() -> None:
    collector = Collector()
    collector.add(torch.rand(2, 3, dtype=torch.bfloat16, requires_grad=True), torch.tensor([1, 0]))
    gathered = collector.gather(2)
    assert (gathered.dtype, gathered.requires_grad, gathered.device.type) == (torch.float32, False, "cpu")


# ---- runs that stop and go on


@pytest.fixture
def train(command, synthetic_shards: Path, small: list[str]):
    """Trains `region_coco` in small; the rate falls after the first epoch."""

    def call(out: Path, *overrides: str) -> dict[str, Any]:
        settings = ["trainer.max_epochs=2", "schedule.milestones=[1]", "highlights=0", "trainer.log_every_n_steps=1"]
        settings.append("checkpoints.steps=1")
        where = [f"shards={synthetic_shards}", f"out={out}"]
        ended = command("train", "experiment=region_coco", *small, *settings, *where, *overrides)
        assert ended.code == 0, ended.err
        return json.loads((out / "metrics.json").read_text()) | {"printed": ended.out + ended.err}

    return call


def checkpoint(out: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(out / "checkpoints" / f"{name}.ckpt", weights_only=True)


def check_same_run(one: Path, other: Path) -> None:
    """Weights, optimizer, schedule, random numbers, the best score, and the scores, bit for bit."""
    for name in ("last", "best"):
        left, right = checkpoint(one, name), checkpoint(other, name)
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "random_states", "global_step", "epoch"):
            assert_equal(left[part], right[part], f"{name}: {part}")
    assert best_score(one) == best_score(other)
    scores = [json.loads((out / "metrics.json").read_text()) for out in (one, other)]
    assert [score["rsum"] for score in scores] == [scores[0]["rsum"]] * 2
    assert scores[0]["i2t"] == scores[1]["i2t"]


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


def best_score(out: Path) -> float:
    states = checkpoint(out)["callbacks"]
    (state,) = (value for key, value in states.items() if "ModelCheckpoint" in key and "dev/rsum" in key)
    return float(state["best_model_score"])


class Killed(BaseException):
    """What stands for a process that is gone."""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch):
    """Lets a run die before a step (or in the first validation after it), with a checkpoint at every step."""

    def at(step: int, where: str = "training") -> None:
        original = getattr(RetrievalModule, f"{where}_step")

        def dying(self: RetrievalModule, *arguments: Any) -> Any:
            if self.trainer.global_step == step:
                raise Killed
            return original(self, *arguments)

        monkeypatch.setattr(RetrievalModule, f"{where}_step", dying)

    yield at
    monkeypatch.undo()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("undisturbed") / "run"


@pytest.fixture
def whole(undisturbed: Path, train) -> Path:
    """The run that nothing happened to; made once."""
    if not undisturbed.exists():
        metrics = train(undisturbed)
        assert (metrics["resumed_at_step"], metrics["steps"], metrics["epochs"]) == (0, 2 * STEPS, 2)
    return undisturbed


def test_a_run_can_be_repeated(train, whole: Path, tmp_path: Path) -> None:
    train(tmp_path / "run")
    check_same_run(tmp_path / "run", whole)


def test_stopped_after_an_epoch_and_resumed(train, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, "trainer.max_epochs=1")
    assert train(out, "resume=true")["resumed_at_step"] == STEPS
    check_same_run(out, whole)


def test_with_the_last_checkpoint_selected_too(train, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, "trainer.max_epochs=1", "selection=last")
    metrics = train(out, "resume=true", "selection=last")
    assert (metrics["selection"], metrics["resumed_at_step"]) == ("last", STEPS)
    assert_equal(checkpoint(out)["state_dict"], checkpoint(whole)["state_dict"], "last")


@pytest.mark.parametrize("step", [3, STEPS + 2, 2 * STEPS - 1])
def test_killed_within_an_epoch_and_resumed(train, killed, whole: Path, tmp_path: Path, step: int, monkeypatch) -> None:
    out = tmp_path / "run"
    killed(step)
    with pytest.raises(Killed):
        train(out)
    monkeypatch.undo()
    assert not (out / "metrics.json").exists()
    assert train(out, "resume=true")["resumed_at_step"] == step
    check_same_run(out, whole)
    rows = list(csv.DictReader((out / "log" / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(2 * STEPS))
    assert all(float(row["time/step_seconds"]) < 60 for row in rows if row["time/step_seconds"])


def test_killed_while_validating_and_resumed(train, killed, whole: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "run"
    killed(STEPS, VALIDATION)
    with pytest.raises(Killed):
        train(out)
    monkeypatch.undo()
    assert train(out, "resume=true")["resumed_at_step"] == STEPS
    check_same_run(out, whole)


def test_the_best_score_outlives_a_resume(train, tmp_path: Path) -> None:
    """A worse epoch after a resume does not become the best."""
    out = tmp_path / "run"
    train(out, "trainer.max_epochs=1")
    first = best_score(out)
    train(out, "resume=true", "optimization.learning_rate=0.5")  # what comes now is not worth keeping
    assert best_score(out) >= first


def test_a_finished_run_says_so_and_one_that_was_not_scored_is_scored(train, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = train(out)
    again = train(out, "resume=true")
    assert "finished already" in again.pop("printed")
    assert again == {name: value for name, value in first.items() if name != "printed"}
    (out / "metrics.json").unlink()  # as it is between the last checkpoint and the scores
    scored = train(out, "resume=true")
    assert (scored["rsum"], scored["checkpoint"]) == (first["rsum"], first["checkpoint"])
    assert scored["resumed_at_step"] == 2 * STEPS


def test_nothing_to_resume_starts_afresh_and_says_so(train, tmp_path: Path) -> None:
    metrics = train(tmp_path / "run", "resume=true", "trainer.max_steps=1")
    assert metrics["resumed_at_step"] == 0
    assert "last.ckpt is not there: starting afresh" in metrics["printed"]


def test_a_folder_with_a_run_is_not_written_over(
    command, synthetic_shards: Path, small: list[str], tmp_path: Path
) -> None:
    settings = ["experiment=region_coco", f"shards={synthetic_shards}", *small, "trainer.max_steps=1", "highlights=0"]
    assert command("train", *settings, f"out={tmp_path}").code == 0
    before = (tmp_path / "metrics.json").read_bytes()
    ended = command("train", *settings, f"out={tmp_path}", "seed=1")
    assert ended.code == 1
    for part in (f"out={tmp_path}", "last.ckpt", "RESUME=1", "another OUT"):
        assert part in ended.err
    assert (tmp_path / "metrics.json").read_bytes() == before


def test_a_folder_in_use_is_refused(command, synthetic_shards: Path, small: list[str], tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"):
        ended = command("train", "data=coco", f"shards={synthetic_shards}", *small, f"out={tmp_path}")
    assert ended.code == 1
    assert f"out={tmp_path}: another process is working there" in ended.err


def test_a_lock_that_a_dead_process_left_is_taken_over(train, tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    assert train(tmp_path, "trainer.max_steps=1")["steps"] == 1


def test_a_resume_with_other_batches_is_refused_in_mid_epoch(
    train, killed, tmp_path: Path, command, monkeypatch, synthetic_shards: Path, small: list[str]
) -> None:
    killed(3)
    with pytest.raises(Killed):
        train(tmp_path / "run")
    monkeypatch.undo()
    where = [f"shards={synthetic_shards}", f"out={tmp_path / 'run'}", "resume=true"]
    ended = command("train", "experiment=region_coco", *small, *where, "batches.batch_size=8")
    assert ended.code == 1
    assert "batch_size=8, but the run began with 16" in ended.err


# ---- what goes wrong in a step


def test_a_loss_that_is_not_a_number_stops_the_run(
    command, synthetic_shards: Path, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = TripletLoss.forward

    def broken(self: TripletLoss, images: Tensor, captions: Tensor, owners: Tensor, epoch: int) -> dict[str, Tensor]:
        numbers = plain(self, images, captions, owners, epoch)
        return {"loss": numbers["loss"] * float("nan")} if epoch == 1 else numbers

    monkeypatch.setattr(TripletLoss, "forward", broken)
    settings = ["trainer.max_epochs=3", "highlights=0", f"shards={synthetic_shards}", f"out={tmp_path}"]
    ended = command("train", "experiment=region_coco", *small, *settings)
    assert ended.code == 1
    assert f"the loss is nan at step {STEPS} (epoch 1); captions of the batch: " in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "metrics.json").exists()
    assert all(weight.isfinite().all() for weight in checkpoint(tmp_path)["state_dict"].values())


def test_every_epoch_is_in_the_log(whole: Path) -> None:
    rows = list(csv.DictReader((whole / "log" / "metrics.csv").open()))
    assert len([row for row in rows if row["dev/rsum"]]) == 2
    assert len([row for row in rows if row["train/loss"]]) == 2 * STEPS
    for row in rows:
        if row["time/step_seconds"]:
            assert 0 < float(row["time/step_seconds"]) < 60
            assert 0 <= float(row["time/share_waiting_for_data"]) <= 1


def test_a_resume_keeps_the_log(train, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, "trainer.max_epochs=1")
    train(out, "resume=true")
    rows = list(csv.DictReader((out / "log" / "metrics.csv").open()))
    losses = [(int(row["step"]), row["train/loss"]) for row in rows if row["train/loss"]]
    assert [step for step, _ in losses] == list(range(2 * STEPS))
    assert len([row for row in rows if row["dev/rsum"]]) == 2
    assert len({loss for _, loss in losses}) == 2 * STEPS


def test_a_run_without_dev_takes_the_last(train, tmp_path: Path) -> None:
    metrics = train(tmp_path, "data.dev_split=null", "data.train_splits=[train,dev]", "selection=last")
    assert metrics["selection"] == "last"
    assert metrics["steps"] == 2 * (160 // 16)
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_workers_change_nothing(train, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, "trainer.max_epochs=1", "batches.workers=1")
    train(out, "resume=true", "batches.workers=1")
    check_same_run(out, whole)
