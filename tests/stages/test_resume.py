"""Runs that stop and go on as if nothing had been."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from threeshnet.objectives.triplet import TripletLoss
from threeshnet.runs.checkpoint_files import WholeFiles

from .compared_runs import STEPS, Killed, assert_equal, best_score, check_same_run, checkpoint, logged

VALIDATION = "validation"


def test_a_run_can_be_repeated_and_every_epoch_is_in_its_log(train, whole: Path, tmp_path: Path) -> None:
    train(tmp_path / "run")
    check_same_run(tmp_path / "run", whole)
    rows = list(csv.DictReader((whole / "log" / "metrics.csv").open()))
    assert len([row for row in rows if row["dev/rsum"]]) == 2
    assert len([row for row in rows if row["train/loss"]]) == 2 * STEPS
    for row in rows:
        if row["time/step_seconds"]:
            assert 0 < float(row["time/step_seconds"]) < 60
            assert 0 <= float(row["time/share_waiting_for_data"]) <= 1


@pytest.mark.parametrize("workers", [0, 1])
def test_stopped_after_an_epoch_and_resumed(train, whole: Path, tmp_path: Path, workers: int) -> None:
    out, reading = tmp_path / "run", f"batches.workers={workers}"
    train(out, "trainer.max_epochs=1", reading)
    assert train(out, "resume=true", reading)["resumed_at_step"] == STEPS
    check_same_run(out, whole)
    assert logged(out, "train/loss") == list(range(2 * STEPS))
    assert len(logged(out, "dev/rsum")) == 2


def test_with_the_last_checkpoint_selected_too(train, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, "trainer.max_epochs=1", "selection=last")
    metrics = train(out, "resume=true", "selection=last")
    assert (metrics["selection"], metrics["resumed_at_step"]) == ("last", STEPS)
    assert_equal(checkpoint(out)["state_dict"], checkpoint(whole)["state_dict"], "last")


@pytest.mark.parametrize("step", [3, 2 * STEPS - 1])
def test_killed_within_an_epoch_and_resumed(train, killed, whole: Path, tmp_path: Path, step: int, monkeypatch) -> None:
    out = tmp_path / "run"
    killed(step)
    with pytest.raises(Killed):
        train(out)
    monkeypatch.undo()
    assert not (out / "metrics.json").exists()
    assert train(out, "resume=true")["resumed_at_step"] == step
    check_same_run(out, whole)
    assert logged(out, "train/loss") == list(range(2 * STEPS))
    rows = csv.DictReader((out / "log" / "metrics.csv").open())
    assert all(float(row["time/step_seconds"]) < 60 for row in rows if row["time/step_seconds"])


def test_killed_while_validating_and_resumed(train, killed, whole: Path, tmp_path: Path, monkeypatch) -> None:
    """The step before was saved; the evaluation is begun again, and no epoch goes without."""
    out = tmp_path / "run"
    killed(STEPS, VALIDATION)
    with pytest.raises(Killed):
        train(out)
    monkeypatch.undo()
    assert checkpoint(out)["evaluation_pending"]
    assert train(out, "resume=true")["resumed_at_step"] == STEPS
    check_same_run(out, whole)
    assert logged(out, "dev/rsum") == logged(whole, "dev/rsum") == [STEPS - 1, 2 * STEPS - 1]


@pytest.mark.parametrize(
    ("name", "step", "where"),
    [("SIGTERM", 3, "training"), ("SIGINT", STEPS, VALIDATION), ("SIGUSR1", 2 * STEPS, "test")],
)
def test_a_signal_saves_and_leaves(
    attempt, train, at_step, whole: Path, tmp_path: Path, name: str, step: int, where: str, monkeypatch
) -> None:
    out, before = tmp_path / "run", signal.getsignal(signal.SIGTERM)
    at_step(step, lambda: os.kill(os.getpid(), signal.Signals[name]), where)
    ended = attempt(out, "checkpoints.steps=null")
    monkeypatch.undo()
    assert ended.code == 75
    kept = step + int(where == "training")
    assert ended.err.splitlines()[-1].startswith(
        f"{name}: left after step {kept}, all saved. To go on: threeshnet train "
    )
    assert f"out={out} resume=true" in ended.err
    assert "Error executing job" not in ended.err
    assert json.loads((out / "progress.json").read_text())["state"] != "failed"
    assert signal.getsignal(signal.SIGTERM) == before
    assert train(out, "resume=true", "checkpoints.steps=null")["resumed_at_step"] == kept
    check_same_run(out, whole)
    assert logged(out, "train/loss") == list(range(2 * STEPS))
    assert logged(out, "dev/rsum") == logged(whole, "dev/rsum")


def test_a_run_that_ends_within_an_epoch_goes_on_there(train, whole: Path, tmp_path: Path) -> None:
    """Lightning counts the epoch that `max_steps` cuts as done."""
    out = tmp_path / "run"
    train(out, f"trainer.max_steps={STEPS + 3}", "checkpoints.steps=null")
    assert (checkpoint(out)["epochs"], checkpoint(out)["global_step"]) == (1, STEPS + 3)
    assert train(out, "resume=true")["resumed_at_step"] == STEPS + 3
    check_same_run(out, whole)
    assert logged(out, "train/loss") == list(range(2 * STEPS))
    assert (out / f"metrics_of_step_{STEPS + 3}_best.json").is_file()


def test_an_evaluation_after_the_last_step_is_made_up_for(
    train, killed, whole: Path, tmp_path: Path, monkeypatch
) -> None:
    """Lightning leaves a run that has taken `max_steps` before it evaluates."""
    out, limit = tmp_path / "run", f"trainer.max_steps={2 * STEPS}"
    killed(2 * STEPS, VALIDATION)
    with pytest.raises(Killed):
        train(out, limit)
    monkeypatch.undo()
    train(out, limit, "resume=true")
    check_same_run(out, whole)
    assert logged(out, "dev/rsum") == logged(whole, "dev/rsum")


def test_a_run_directory_may_be_moved(train, whole: Path, tmp_path: Path) -> None:
    """The best score goes with it: Lightning forgets it where the folder has another name."""
    train(tmp_path / "here", "trainer.max_epochs=1")
    (tmp_path / "here").rename(tmp_path / "there")
    train(tmp_path / "there", "resume=true")
    check_same_run(tmp_path / "there", whole)


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


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (lambda content: content.pop("pytorch-lightning_version"), [], "no `pytorch-lightning_version`"),
        (lambda content: content.update(loops=5, epoch="2"), [], "loops=5: expected an object"),
        (lambda _: None, ["dim=16"], "size mismatch, (32"),
    ],
)
def test_a_run_cannot_go_on_from_another_one(
    attempt, whole: Path, tmp_path: Path, change: Any, words: list[str], message: str
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    for file in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        content = torch.load(file, weights_only=True)
        change(content)
        torch.save(content, file)
    ended = attempt(tmp_path / "run", "resume=true", "trainer.max_epochs=3", *words)
    assert ended.code == 1
    assert message in ended.err
    assert "Traceback" not in ended.err


# ---- what goes wrong in a step


@pytest.mark.parametrize("step", [0, STEPS + 2])
def test_a_loss_that_is_no_number_stops_before_a_weight_changes(
    attempt, train, whole: Path, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running statistics and random numbers of the step are taken back: what goes on is the undisturbed run."""
    plain, out, count = TripletLoss.forward, tmp_path / "run", iter(range(100))

    def broken(self: TripletLoss, images: Tensor, captions: Tensor, owners: Tensor, epoch: int) -> dict[str, Tensor]:
        numbers = plain(self, images, captions, owners, epoch)
        if not torch.is_grad_enabled():  # the loss of equal embeddings, to compare with
            return numbers
        return {"loss": numbers["loss"] * float("nan")} if next(count) == step else numbers

    monkeypatch.setattr(TripletLoss, "forward", broken)
    ended = attempt(out, "checkpoints.steps=null")
    assert ended.code == 1
    assert f"the loss is nan at step {step} (epoch {step // STEPS}); captions of the batch: " in ended.err
    assert "Their features are finite numbers" in ended.err
    assert "Traceback" not in ended.err
    assert not (out / "metrics.json").exists()
    monkeypatch.undo()
    assert train(out, "resume=true")["resumed_at_step"] == step
    check_same_run(out, whole)
    assert logged(out, "train/loss") == list(range(2 * STEPS))


@pytest.mark.parametrize("step", [3, STEPS])
def test_a_worker_that_dies_while_a_checkpoint_is_written(
    attempt, train, whole: Path, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch raises wherever the main process is: the step has changed the weights and is neither saved nor logged."""
    plain, died = WholeFiles.save_checkpoint, []

    def cut(self: WholeFiles, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if checkpoint["global_step"] == step and not died:
            died.append(step)
            raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")
        plain(self, checkpoint, path, storage_options)

    monkeypatch.setattr(WholeFiles, "save_checkpoint", cut)
    out = tmp_path / "run"
    ended = attempt(out)
    monkeypatch.undo()
    assert (ended.code, died) == (1, [step])
    assert "fewer batches.workers" in ended.err.splitlines()[-1]
    assert "Error executing job" not in ended.err
    assert train(out, "resume=true")["resumed_at_step"] == step
    check_same_run(out, whole)
    assert logged(out, "train/loss") == list(range(2 * STEPS))
    assert logged(out, "dev/rsum") == logged(whole, "dev/rsum")


def test_a_run_without_dev_takes_the_last(train, tmp_path: Path) -> None:
    metrics = train(tmp_path, "data.dev_split=null", "data.train_splits=[train,dev]", "selection=last")
    assert metrics["selection"] == "last"
    assert metrics["steps"] == 2 * (160 // 16)
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()
