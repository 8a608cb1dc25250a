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
from threeshnet.training.whole_files import WholeFiles

from .compared_runs import BATCH, IMAGES, STEPS, assert_equal, at_step, best_score, check_same_run, checkpoint

VALIDATION = "validation"
LIMIT = f"trainer.max_steps={2 * STEPS}"


@pytest.fixture
def goes_on(train, whole: Path):
    """The run is resumed after that step, and ends as the undisturbed one."""

    def check(out: Path, step: int, *overrides: str) -> None:
        assert train(out, "resume=true", *overrides)["resumed_at_step"] == step
        check_same_run(out, whole)

    return check


def test_a_run_can_be_repeated_and_every_epoch_is_in_its_log(train, whole: Path, tmp_path: Path) -> None:
    train(tmp_path / "run")
    check_same_run(tmp_path / "run", whole)
    rows = list(csv.DictReader((whole / "log" / "metrics.csv").open()))
    timed = [row for row in rows if row["time/step_seconds"]]
    assert len(timed) == 2
    for row in timed:
        assert 0 < float(row["time/step_seconds"]) < 60
        assert 0 <= float(row["time/share_waiting_for_data"]) <= 1


@pytest.mark.parametrize("workers", [0, 1])
def test_stopped_after_an_epoch_moved_and_resumed(train, goes_on, tmp_path: Path, workers: int) -> None:
    """The best score goes along: Lightning forgets it where the folder has another name."""
    reading = f"batches.workers={workers}"
    train(tmp_path / "here", "trainer.max_epochs=1", reading)
    goes_on((tmp_path / "here").rename(tmp_path / "there"), STEPS, reading)


def test_an_objective_that_reads_the_captions_does_so_again(train, tmp_path: Path) -> None:
    train(tmp_path / "whole", "objective=soft_labels")
    train(tmp_path / "cut", "objective=soft_labels", "trainer.max_epochs=1")
    train(tmp_path / "cut", "objective=soft_labels", "resume=true")
    check_same_run(tmp_path / "cut", tmp_path / "whole")
    soft = [row["train/soft"] for row in csv.DictReader((tmp_path / "whole/log/metrics.csv").open())]
    assert len({float(value) for value in soft if value}) > 1


def test_with_the_last_checkpoint_selected_too(train, whole: Path, tmp_path: Path) -> None:
    train(tmp_path, "trainer.max_epochs=1", "selection=last")
    metrics = train(tmp_path, "resume=true", "selection=last")
    assert (metrics["selection"], metrics["resumed_at_step"]) == ("last", STEPS)
    assert_equal(checkpoint(tmp_path)["state_dict"], checkpoint(whole)["state_dict"], "last")


@pytest.mark.parametrize(
    ("step", "where", "overrides"),
    [
        (3, "training", []),
        (2 * STEPS - 1, "training", []),
        (STEPS, VALIDATION, []),
        (2 * STEPS, VALIDATION, [LIMIT]),  # Lightning leaves a run that has taken `max_steps` before it evaluates
    ],
)
def test_killed_and_resumed(killed, goes_on, tmp_path: Path, step: int, where: str, overrides: list[str]) -> None:
    """A step before an evaluation is saved with the evaluation to be done again, and no epoch goes without."""
    out = killed(tmp_path / "run", step, where, *overrides)
    assert not (out / "metrics.json").exists()
    assert checkpoint(out)["evaluation_pending"] == (where == VALIDATION)
    goes_on(out, step, *overrides)
    rows = csv.DictReader((out / "log" / "metrics.csv").open())
    assert all(float(row["time/step_seconds"]) < 60 for row in rows if row["time/step_seconds"])


def test_killed_after_an_evaluation_that_was_made_up_for(killed, goes_on, tmp_path: Path) -> None:
    """Lightning takes the counts of such an evaluation for one that is under way, and would leave out half of it."""
    out = killed(tmp_path / "run", STEPS, VALIDATION)
    killed(out, STEPS, "training", "resume=true")
    assert not checkpoint(out)["evaluation_pending"]
    goes_on(out, STEPS)


@pytest.mark.parametrize(
    ("name", "step", "where"),
    [("SIGTERM", 2, "training"), ("SIGINT", STEPS, VALIDATION), ("SIGUSR1", 2 * STEPS, "test")],
)
def test_a_signal_saves_and_leaves(attempt, goes_on, tmp_path: Path, name: str, step: int, where: str) -> None:
    out, before = tmp_path / "run", signal.getsignal(signal.SIGTERM)
    with at_step(step, lambda: os.kill(os.getpid(), signal.Signals[name]), where):
        ended = attempt(out, "checkpoints.steps=null")
    assert ended.code == 75
    kept = step + int(where == "training")
    said = f"{name}: left after step {kept}, all saved. To go on: threeshnet train "
    assert ended.err.splitlines()[-1].startswith(said)
    assert f"out={out} resume=true" in ended.err
    assert "Error executing job" not in ended.err
    assert json.loads((out / "progress.json").read_text())["state"] != "failed"
    assert signal.getsignal(signal.SIGTERM) == before
    goes_on(out, kept, "checkpoints.steps=null")


def test_a_run_that_ends_within_an_epoch_goes_on_there(train, goes_on, tmp_path: Path) -> None:
    """Lightning counts the epoch that `max_steps` cuts as done."""
    train(tmp_path, f"trainer.max_steps={STEPS + 3}", "checkpoints.steps=null")
    assert (checkpoint(tmp_path)["epochs"], checkpoint(tmp_path)["global_step"]) == (1, STEPS + 3)
    goes_on(tmp_path, STEPS + 3)
    assert (tmp_path / f"metrics_of_step_{STEPS + 3}_best.json").is_file()


def test_the_best_score_outlives_a_resume(train, tmp_path: Path) -> None:
    train(tmp_path, "trainer.max_epochs=1")
    first = best_score(checkpoint(tmp_path))
    train(tmp_path, "resume=true")
    assert best_score(checkpoint(tmp_path)) >= first


def test_a_finished_run_says_so_and_one_that_was_not_scored_is_scored(train, tmp_path: Path) -> None:
    first = train(tmp_path)
    again = train(tmp_path, "resume=true")
    assert "finished already" in again.pop("printed")
    assert again == {name: value for name, value in first.items() if name != "printed"}
    (tmp_path / "metrics.json").unlink()  # as it is between the last checkpoint and the scores
    scored = train(tmp_path, "resume=true")
    assert (scored["rsum"], scored["checkpoint"]) == (first["rsum"], first["checkpoint"])
    assert scored["resumed_at_step"] == 2 * STEPS


def test_nothing_to_resume_starts_afresh_and_what_is_there_is_not_written_over(attempt, train, tmp_path: Path) -> None:
    metrics = train(tmp_path, "resume=true", "trainer.max_steps=1")
    assert metrics["resumed_at_step"] == 0
    assert "last.ckpt is not there: starting afresh" in metrics["printed"]
    before = (tmp_path / "metrics.json").read_bytes()
    ended = attempt(tmp_path, "trainer.max_steps=1", "seed=1")
    assert ended.code == 1
    for part in (f"out={tmp_path}", "last.ckpt", "RESUME=1", "another OUT"):
        assert part in ended.err
    assert (tmp_path / "metrics.json").read_bytes() == before


OTHERS = {
    "seed": ("seed=7", "seed=7, but the run began with 0"),
    "rate": ("optimization.learning_rate=0.9", "optimization.learning_rate=0.9, but the run began with 0.0005"),
    "objective": ("objective=infonce", "objective._target_='threeshnet.objectives.infonce.InfoNCELoss', but the run"),
    "batches": ("batches.batch_size=8", f"batches.batch_size=8, but the run began with {BATCH}"),
    "fewer photos": ("batches.limit_train_images=9", f"batches.limit_train_images=9, but the run began with {IMAGES}"),
    "precision": ("trainer.precision=bf16-mixed", "trainer.precision='bf16-mixed', but the run began with '32-true'"),
    "mean of the weights": ("averaging=ema", "averaging.decay="),
    "an added key": ("+optimizer.amsgrad=true", "optimizer.amsgrad=True, but the run began with None"),
    "schedule": ("warm_up_epochs=3", "warm_up_epochs=3, but the run began with 1"),
}


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused_before_anything_changes(
    attempt, whole: Path, tmp_path: Path, finished: bool
) -> None:
    """pytorch/examples#816, SimpleTuner#163, transformers#18070: another rate was taken, and had no effect."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    if not finished:
        (out / "metrics.json").unlink()
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    ended = attempt(out, "resume=true", "trainer.max_epochs=3", *(words for words, _ in OTHERS.values()))
    assert ended.code == 1
    for _, message in OTHERS.values():
        assert message in ended.err
    assert "model." not in ended.err  # copies of the others
    assert "give another OUT" in ended.err.splitlines()[-1]
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def test_other_data_is_refused_by_a_resume(attempt, whole: Path, tmp_path: Path, demo_shards: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    ended = attempt(tmp_path / "run", "resume=true", f"shards={demo_shards}")
    assert ended.code == 1
    assert "fingerprint " in ended.err


def test_what_a_resume_may_change(attempt, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    free = ["batches.workers=1", "batches.evaluation_batch_size=7", "checkpoints.minutes=1", "highlights=1"]
    free += ["trainer.devices=[0]", "trainer.log_every_n_steps=9", "experiment_name=other", "wandb_project=other"]
    ended = attempt(tmp_path / "run", "resume=true", *free)
    assert (ended.code, "finished already" in ended.out) == (0, True), ended.err


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (lambda content: content.pop("pytorch-lightning_version"), [], "no `pytorch-lightning_version`"),
        (lambda content: content.update({"pytorch-lightning_version": "null"}), [], "'null' is no version"),
        (lambda content: content.update(loops=5, epoch="2"), [], "loops=5: expected an object"),
        (lambda content: content["threeshnet"].pop("run"), ["dim=16"], "dim=16, but the run began with 32"),
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
def test_a_loss_that_is_no_number_stops_before_a_weight_changes(attempt, goes_on, tmp_path: Path, step: int) -> None:
    """Running statistics and random numbers of the step are taken back: what goes on is the undisturbed run."""
    plain, count = TripletLoss.forward, iter(range(100))

    def broken(self: TripletLoss, images: Tensor, captions: Tensor, owners: Tensor, epoch: int) -> dict[str, Tensor]:
        numbers = plain(self, images, captions, owners, epoch)
        if not torch.is_grad_enabled():  # the loss of equal embeddings, to compare with
            return numbers
        return {"loss": numbers["loss"] * float("nan")} if next(count) == step else numbers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TripletLoss, "forward", broken)
        ended = attempt(tmp_path, "checkpoints.steps=null")
    assert ended.code == 1
    assert f"the loss is nan at step {step} (epoch {step // STEPS}); captions of the batch: " in ended.err
    assert "Their features are finite numbers" in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "metrics.json").exists()
    goes_on(tmp_path, step)


@pytest.mark.parametrize("step", [3, STEPS])
def test_a_worker_that_dies_while_a_checkpoint_is_written(attempt, goes_on, tmp_path: Path, step: int) -> None:
    """torch raises wherever the main process is: the step has changed the weights and is neither saved nor logged."""
    plain, died = WholeFiles.save_checkpoint, []

    def cut(self: WholeFiles, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if checkpoint["global_step"] == step and not died:
            died.append(step)
            raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")
        plain(self, checkpoint, path, storage_options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WholeFiles, "save_checkpoint", cut)
        ended = attempt(tmp_path)
    assert (ended.code, died) == (1, [step])
    assert "fewer batches.workers" in ended.err.splitlines()[-1]
    assert "Error executing job" not in ended.err
    goes_on(tmp_path, step)


def test_a_run_without_dev_takes_the_last(train, tmp_path: Path) -> None:
    splits = ["data.dev_split=null", "data.train_splits=[train,dev]", "batches.limit_train_images=null"]
    metrics = train(tmp_path, *splits, "selection=last", "batches.batch_size=32", "trainer.max_epochs=1")
    assert metrics["selection"] == "last"
    assert metrics["steps"] == 160 // 32  # the captions of both splits
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()
