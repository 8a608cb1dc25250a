"""A search over ranges of settings: Optuna asks for values, jobs answer with their best dev rsum."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from threeshnet.runs import progress
from threeshnet.studies.scheduler import DONE, RUNNING, Runner, Status
from threeshnet.studies.study import Range, Search

STORAGE = "search.db"
PRUNED = "pruned"
FIRST_TRIALS = 5  # that are never pruned, and are drawn at random


@dataclass
class Trials:
    """The trials of a search in SQLite, so that a search that was killed goes on with what it has learned.

    `job_of` makes a trial's number and its values, {key: value}, into a job that waits, or that ended before.
    """

    search: Search
    folder: Path
    job_of: Callable[[int, Mapping[str, Any]], Status]
    seed: int = 0
    study: optuna.Study = field(init=False)
    asked: dict[str, optuna.Trial] = field(default_factory=dict)  # by the job's name
    told: set[str] = field(default_factory=set)
    reported: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.study = optuna.create_study(
            study_name="search",
            storage=f"sqlite:///{self.folder / STORAGE}",
            load_if_exists=True,
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=FIRST_TRIALS),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=FIRST_TRIALS, n_warmup_steps=1),
        )

    def unfinished(self) -> list[Status]:
        """Jobs of trials that an earlier call asked for and did not hear of again."""
        left = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        return [self._status(optuna.Trial(self.study, trial._trial_id)) for trial in left]

    def wanted(self) -> int:
        """How many trials are still to be asked for."""
        return max(self.search.trials - len(self.study.get_trials(deepcopy=False)), 0)

    def ask(self) -> Status:
        return self._status(self.study.ask())

    def _status(self, trial: optuna.Trial) -> Status:
        values = {key: suggest(trial, key, values) for key, values in self.search.ranges.items()}
        status = self.job_of(trial.number, values)
        self.asked[status.job.name] = trial
        return status

    def hear(self, status: Status) -> None:
        """Tell Optuna of a job that ended, once. Dev alone is looked at, never the held-out split."""
        trial, name = self.asked[status.job.name], status.job.name
        if name in self.told or not status.ended:
            return
        best = progress.read(status.job.folder).get("best_dev_rsum")
        if status.state == PRUNED:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif status.state in DONE and best is not None:
            self.study.tell(trial, best)
        elif status.state == "failed":
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            return  # interrupted: the trial goes on when the search does
        self.told.add(name)

    def best(self) -> str:
        """The best trial so far, in words."""
        done = self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if not done:
            return "no trial is finished yet"
        first = max(done, key=lambda trial: trial.value or 0.0)
        words = " ".join(f"{key}={value}" for key, value in first.params.items())
        return f"best of {len(done)} finished trials by dev rsum: trial={first.number:04d}, {first.value:.1f}: {words}"

    def is_hopeless(self, status: Status) -> bool:
        """Whether the pruner gives up a job that runs, by its dev rsum after each epoch."""
        found = progress.read(status.job.folder)
        trial, name = self.asked[status.job.name], status.job.name
        if found.get("dev_rsum") is None or found["epoch"] <= self.reported.get(name, 0):
            return False
        self.reported[name] = found["epoch"]
        trial.report(found["dev_rsum"], found["epoch"])
        return trial.should_prune()


def suggest(trial: optuna.Trial, key: str, values: Range | Sequence[Any]) -> Any:
    """A value of a range, or one of several choices."""
    if not isinstance(values, Range):
        return trial.suggest_categorical(key, list(values))
    whole = all(isinstance(value, int) for value in (values.low, values.high, values.step or 1))
    more = values.model_dump(include={"log", "step"}, exclude_defaults=True)
    return (trial.suggest_int if whole else trial.suggest_float)(key, values.low, values.high, **more)  # pyright: ignore


def run_search(trials: Trials, runner: Runner, statuses: list[Status], look: Callable[[], None], at_once: int) -> None:
    """Asks for as many trials at a time as run side by side, until enough are heard of. `statuses` grows with them."""
    statuses += trials.unfinished()
    with runner.asked_to_stop():
        while True:
            runner.turn(statuses)
            for status in statuses:
                if status.state == RUNNING and not runner.signals and trials.is_hopeless(status):
                    _prune(status, runner)
                trials.hear(status)
            while not runner.signals and trials.wanted() and open_jobs(statuses) < at_once:
                statuses.append(trials.ask())
            look()
            if not open_jobs(statuses):
                return
            runner.rest()


def open_jobs(statuses: Sequence[Status]) -> int:
    return sum(not status.ended for status in statuses)


def _prune(status: Status, runner: Runner) -> None:
    assert status.started is not None
    status.started.stop(signal.SIGTERM)
    while status.started.poll() is None:
        runner.rest()
    runner.change(status, PRUNED)
