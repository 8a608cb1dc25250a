"""progress.json and job.json: what a run says of itself while it trains, and which run it is."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from threeshnet.errors import DataError
from threeshnet.runs.identity import differing, flat, identity
from threeshnet.runs.records import FAILED, FINISHED, Progress
from threeshnet.runs.run import Run
from threeshnet.training import monitoring

QUIET: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}


class Module(pl.LightningModule):
    """Two steps an epoch, and a dev rsum that falls after the second epoch."""

    def __init__(self, stop: BaseException | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.stop = stop

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.stop and self.global_step == 3:
            raise self.stop
        return self.weight * 1.0

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("dev/rsum", float([10, 30, 20][self.current_epoch]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Seen(pl.Callback):
    """Every state that was written."""

    def __init__(self, folder: Path) -> None:
        self.run, self.states = Run(folder), []

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.states.append(self.run.progress)

    on_train_epoch_end = on_train_batch_end


def fit(folder: Path, *, seconds: float = 0.0, stop: BaseException | None = None) -> list[Progress]:
    seen = Seen(folder)
    callbacks: list[pl.Callback] = [monitoring.ProgressWriter(run=Run(folder), seconds=seconds), seen]
    steps: dict[str, Any] = {"max_epochs": 3, "num_sanity_val_steps": 0, "accelerator": "cpu"}
    trainer = pl.Trainer(callbacks=callbacks, default_root_dir=folder, **steps, **QUIET)
    trainer.fit(Module(stop), DataLoader(torch.zeros(2, 1)), DataLoader(torch.zeros(1, 1)))
    return seen.states


def test_progress_follows_the_run(tmp_path: Path) -> None:
    states = fit(tmp_path)
    assert [state.step for state in states] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert [state.epoch for state in states] == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert [state.dev_rsum for state in states[2::3]] == [10, 30, 20]
    assert [state.best_dev_rsum for state in states[2::3]] == [10, 30, 30]
    assert {(state.state, state.epochs, state.steps) for state in states} == {("running", 3, 6)}
    assert states[0].seconds_left is None
    assert all(state.seconds_left >= 0 for state in states[1:])
    assert all(one.updated <= other.updated for one, other in pairwise(states))
    Run(tmp_path).mark(FINISHED)
    assert Run(tmp_path).progress.state == "finished"
    assert not list(tmp_path.glob("*.partial"))


def test_between_epochs_it_writes_seldom(tmp_path: Path) -> None:
    assert [state.step for state in fit(tmp_path, seconds=math.inf)] == [0, 0, 2, 2, 2, 4, 4, 4, 6]


@pytest.mark.parametrize(("stop", "state"), [(SystemExit(75), "interrupted"), (ValueError("no"), "failed")])
def test_a_run_that_ends_early_says_how(tmp_path: Path, stop: BaseException, state: str) -> None:
    with pytest.raises(type(stop)):
        fit(tmp_path, stop=stop)
    assert (Run(tmp_path).progress.state, Run(tmp_path).progress.step) == (state, 3)


@pytest.mark.parametrize("kind", [monitoring.PlainBar, monitoring.RichBar])
def test_bars_say_what_is_left_of_the_training(tmp_path: Path, kind: type[monitoring.TimeLeft]) -> None:
    """Of six steps in three epochs, a minute each."""
    progress = monitoring.ProgressWriter(run=Run(tmp_path))
    bar, shown = kind(writer=progress, refresh_rate=1), []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *arguments: Any) -> None:
            progress.began = monitoring.time.monotonic() - 60 * (trainer.global_step - 1)
            shown.append(bar.get_metrics(trainer, pl_module).get("left"))

    options: dict[str, Any] = {**QUIET, "enable_progress_bar": True, "accelerator": "cpu"}
    trainer = pl.Trainer(callbacks=[progress, bar, Look()], default_root_dir=tmp_path, max_epochs=3, **options)
    trainer.fit(Module(), DataLoader(torch.zeros(2, 1)))
    assert shown == [None, "4 min", "3 min", "2 min", "1 min", "< 1 min"]


def test_a_run_that_goes_on_counts_the_time_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process works for 100 s, the next one 20 s more; what lies between them is no work."""
    now = [1000.0]
    monkeypatch.setattr(monitoring.time, "time", lambda: now[0])
    checkpoint: dict[str, Any] = {"callbacks": {}}
    for start, seconds, before in ((1000.0, 100.0, 0.0), (5000.0, 20.0, 100.0)):
        assert monitoring.seconds_of(checkpoint) == before
        now[0] = start
        run = monitoring.ProgressWriter(run=Run(tmp_path))
        if checkpoint["callbacks"]:
            run.load_state_dict(checkpoint["callbacks"][run.state_key])
        now[0] += seconds
        checkpoint["callbacks"] = {run.state_key: run.state_dict()}
    assert monitoring.seconds_of(checkpoint) == 120
    older = {"callbacks": {"Progress": {"dev_rsum": None, "best_dev_rsum": None}}}
    assert monitoring.seconds_of(older) == monitoring.seconds_of(None) == 0


def test_a_file_that_is_missing_or_malformed_is_nothing_read(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.mark(FAILED)
    assert (run.progress, list(tmp_path.iterdir())) == (Progress(), [])
    for text in ("{", "[]", '{"state": 5}', '{"epoch": 1e400}'):
        (tmp_path / "progress.json").write_text(text)
        assert run.progress == Progress()
    (tmp_path / "metrics.json").write_text('{"rsum": true, "i2t": {"R@1": 1, "R@5": 2, "R@10": 3}}')
    assert run.find_metrics() == {}
    with pytest.raises(DataError, match=r"(?s)metrics\.json: 2 problems.*rsum=True: expected a number.*no `t2i`"):
        assert run.metrics


# ---- which run


plain = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
settings = st.dictionaries(st.text("abcdef", min_size=1), plain | st.dictionaries(st.text("xyz", min_size=1), plain))


@given(settings=settings, more=plain)
def test_names_folders_and_logging_do_not_count(settings: dict[str, Any], more: Any) -> None:
    named = settings | {"study": more, "out": more, "shards": more, "logger": {"csv": more}, "wandb": more}
    assert identity(settings, "x") == identity(dict(reversed(named.items())), "x")
    assert differing(settings, named) == []


@given(one=settings, other=settings)
def test_other_settings_and_other_data_are_another_run(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = json.dumps(flat(one), sort_keys=True) == json.dumps(flat(other), sort_keys=True)
    assert (identity(one, "x") == identity(other, "x")) == same
    assert identity(one, "x") != identity(one, "y"), "other data"


def test_a_run_directory_says_which_run_it_is(
    command, synthetic_shards: Path, small: list[str], tmp_path: Path
) -> None:
    """Two folders and another name: the same run."""
    records = []
    for out, *more in (("a",), ("b", "highlights=0", "study=one", "factors={seed:0}")):
        steps = ["trainer.max_steps=2", f"shards={synthetic_shards}", f"out={tmp_path / out}", "highlights=0"]
        ended = command("train", "experiment=region_coco", *small, *steps, *more)
        assert ended.code == 0, ended.err
        records.append(Run(tmp_path / out).job)
        assert Run(tmp_path / out).progress.state == "finished"
    first, second = records
    assert first.identity == second.identity
    assert (second.study, second.factors, first.factors) == ("one", {"seed": 0}, {})
    assert (first.experiment, first.setting) == ("region_coco", "coco")
    assert len(first.fingerprint) > 10
    assert "CPU cores" in first.machine
