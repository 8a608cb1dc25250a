"""Optuna's search and submitit's queue, with jobs that start in milliseconds."""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from threeshnet.errors import ConfigError
from threeshnet.studies.cluster import Cluster, Work
from threeshnet.studies.launch import Local
from threeshnet.studies.scheduler import Scheduler, State, Status, failures
from threeshnet.studies.search import Trials, run_search
from threeshnet.studies.study import Search, parse_study

from .test_scheduler import job as sham
from .test_scheduler import sham_is_found  # noqa: F401  (for every test here)

RANGES = {"rate": {"low": 1e-4, "high": 1e-2, "log": True}, "depth": {"low": 1, "high": 4}, "kind": ["a", "b"]}


class Jobs:
    """Jobs whose dev rsum is ten times their depth, written beforehand; `words` go to trials by number."""

    def __init__(self, folder: Path, words: Mapping[int, str] | None = None) -> None:
        self.folder, self.words, self.values = folder, words or {}, {}

    def __call__(self, number: int, values: Mapping[str, Any]) -> Status:
        job = sham(self.folder, f"trial={number:04d}", *filter(None, [self.words.get(number)]))
        self.values[number] = dict(values)
        job.folder.mkdir(exist_ok=True)
        dev = {"state": "running", "epoch": 3, "epochs": 8, "dev_rsum": 10.0 * values["depth"]}
        (job.folder / "progress.json").write_text(json.dumps(dev | {"best_dev_rsum": dev["dev_rsum"]}))
        return Status(job)


def go(folder: Path, count: int, jobs: Jobs, stop_after: int | None = None) -> tuple[Trials, list[Status]]:
    trials, statuses = Trials(Search.model_validate({"ranges": RANGES, "trials": count}), folder, jobs), []
    scheduler = Scheduler(starter=Local(), changed=lambda _: None, seconds=0.02)

    def look() -> None:
        if stop_after is not None and len(statuses) > stop_after:
            scheduler.signals = 1

    run_search(trials, scheduler, statuses, look, parallel=1)
    return trials, statuses


def test_a_search_finds_and_says_the_best(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, {1: "fail=2"})
    trials, statuses = go(tmp_path, 6, jobs)
    assert [status.state for status in statuses] == [State.FINISHED, State.FAILED, *[State.FINISHED] * 4]
    for values in jobs.values.values():
        assert 1e-4 <= values["rate"] <= 1e-2
        assert isinstance(values["depth"], int)
        assert values["kind"] in "ab"
    best = max(value["depth"] for number, value in jobs.values.items() if number != 1)
    assert trials.study.best_value == 10.0 * best
    assert f"best of 5 finished trials by dev rsum: trial={trials.study.best_trial.number:04d}" in trials.best()


def test_a_search_that_was_stopped_goes_on(tmp_path: Path) -> None:
    """The trial that was under way keeps its values; finished ones are counted and not run again."""
    first = Jobs(tmp_path, {2: "seconds=60"})
    _, statuses = go(tmp_path, 5, first, stop_after=2)
    assert [status.state for status in statuses] == [State.FINISHED, State.FINISHED, State.STOPPED]
    second = Jobs(tmp_path)
    trials, statuses = go(tmp_path, 5, second)
    assert [status.job.name for status in statuses] == ["trial=0002", "trial=0003", "trial=0004"]
    assert second.values[2] == first.values[2]
    assert len(trials.study.trials) == 5
    assert go(tmp_path, 5, Jobs(tmp_path))[1] == []


def test_a_hopeless_trial_is_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optuna.Trial.should_prune", lambda trial: trial.number == 1)
    jobs = Jobs(tmp_path, {1: "seconds=60"})
    trials, statuses = go(tmp_path, 3, jobs)
    assert [status.state for status in statuses] == [State.FINISHED, State.PRUNED, State.FINISHED]
    assert failures(statuses) == ""
    assert [trial.state.name for trial in trials.study.trials] == ["COMPLETE", "PRUNED", "COMPLETE"]


def test_ranges_that_are_wrong_are_all_named() -> None:
    ranges = {"a": {"low": 1}, "b": [], "c": "x", "d": {"low": 1, "high": 2, "logarithm": True}}
    with pytest.raises(ConfigError) as error:
        parse_study("s", {"title": "T", "question": "Q", "search": {"trials": 0, "ranges": ranges}})
    for key in ("trials=0", "ranges a: high is missing", "b is missing", "c='x'", "key='logarithm'"):
        assert key in str(error.value)


# ---- submitit


def test_the_queue_runs_what_a_sweep_gives_it(tmp_path: Path) -> None:
    """By submitit's stand-in for a queue, which runs the work in this process; the job is a process of its own."""
    cluster = Cluster(executor="debug", folder=tmp_path / "submitted", options={"timeout_min": 5}, parallel=1)
    statuses = [Status(sham(tmp_path, "good")), Status(sham(tmp_path, "bad", "fail=3"))]
    Scheduler(starter=cluster, changed=lambda _: None, seconds=0.02).run(statuses, lambda: None)
    assert [status.state for status in statuses] == [State.FINISHED, State.FAILED]
    assert "bad: exit code 3" in failures(statuses)
    assert "the last word" in failures(statuses)


def test_work_that_runs_out_of_time_saves_and_is_queued_again(tmp_path: Path) -> None:
    work = Work(sham(tmp_path, "long", "seconds=60"))
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(work()))
    thread.start()
    output = tmp_path / "long" / "output.log"
    while not output.exists() or "try 1" not in output.read_text():
        time.sleep(0.02)
    again = pickle.loads(pickle.dumps(work.checkpoint().function))
    thread.join()
    assert codes == [75]
    assert again.job == work.job


def test_what_the_queue_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.executor='slrm' does not exist; there are: slurm, local, debug"):
        Cluster(executor="slrm", folder=tmp_path, options={}, parallel=None)
