"""A search over ranges of settings: Optuna suggests values, a job trains with them and answers with its dev rsum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from threeshnet.runs.run import Run
from threeshnet.studies.scheduler import DONE, Scheduler, State, Status
from threeshnet.studies.study import Range, Search

STORAGE = "search.db"
TOLD = {State.PRUNED: TrialState.PRUNED, State.FAILED: TrialState.FAIL}
FIRST_TRIALS = 5  # drawn at random and never pruned


@dataclass
class Trials:
    """The trials of a search in SQLite, so that a killed search goes on with what it has learned.

    `job_of` makes a job of a trial's number and its values {key: value}. Trials are judged by dev rsum alone.
    """

    search: Search
    folder: Path
    job_of: Callable[[int, Mapping[str, Any]], Status]
    seed: int = 0
    study: optuna.Study = field(init=False)
    trials: dict[str, optuna.Trial] = field(default_factory=dict)  # by the job's name
    reported: dict[str, int] = field(default_factory=dict)  # the last epoch, by the job's name

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
        """Jobs of the trials that an earlier call left running."""
        left = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        return [self._status(optuna.Trial(self.study, trial._trial_id)) for trial in left]

    def missing(self) -> int:
        """How many trials are still to be asked for."""
        return max(self.search.trials - len(self.study.get_trials(deepcopy=False)), 0)

    def ask(self) -> Status:
        return self._status(self.study.ask())

    def _status(self, trial: optuna.Trial) -> Status:
        values = {key: suggest(trial, key, values) for key, values in self.search.ranges.items()}
        status = self.job_of(trial.number, values)
        self.trials[status.job.name] = trial
        return status

    def tell(self, status: Status) -> None:
        """Tells Optuna of a job that has ended, once; an interrupted one goes on when the search does."""
        best = Run(status.job.folder).progress.best_dev_rsum
        state = TOLD.get(status.state)
        if status.job.name in self.trials and (state or (status.state in DONE and best is not None)):
            self.study.tell(self.trials.pop(status.job.name), None if state else best, state)

    def best(self) -> str:
        """The best trial so far, as a sentence."""
        done = self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if not done:
            return "no trial is finished yet"
        best = self.study.best_trial
        words = " ".join(f"{key}={value}" for key, value in best.params.items())
        return f"best of {len(done)} finished trials by dev rsum: trial={best.number:04d}, {best.value:.1f}: {words}"

    def should_prune(self, status: Status) -> bool:
        """Whether the pruner gives up a running job, by its dev rsum after each epoch."""
        progress, name = Run(status.job.folder).progress, status.job.name
        if progress.dev_rsum is None or progress.epoch <= self.reported.get(name, 0):
            return False
        self.reported[name] = progress.epoch
        self.trials[name].report(progress.dev_rsum, progress.epoch)
        return self.trials[name].should_prune()


def suggest(trial: optuna.Trial, key: str, values: Range | Sequence[Any]) -> Any:
    """A value of a range, or one of several choices."""
    if not isinstance(values, Range):
        return trial.suggest_categorical(key, list(values))
    whole = all(isinstance(value, int) for value in (values.low, values.high, values.step or 1))
    more = values.model_dump(include={"log", "step"}, exclude_defaults=True)
    return (trial.suggest_int if whole else trial.suggest_float)(key, values.low, values.high, **more)  # pyright: ignore


def run_search(
    trials: Trials, scheduler: Scheduler, statuses: list[Status], look: Callable[[], None], parallel: int
) -> None:
    """Keeps `parallel` trials open until all have ended. `statuses` grows with them."""
    statuses += trials.unfinished()
    with scheduler.stopped_by_signals():
        while True:
            scheduler.turn(statuses)
            for status in statuses:
                if status.state is State.RUNNING and not scheduler.signals and trials.should_prune(status):
                    scheduler.prune(status)
                trials.tell(status)
            while not scheduler.signals and trials.missing() and open_jobs(statuses) < parallel:
                statuses.append(trials.ask())
            look()
            if not open_jobs(statuses):
                return
            scheduler.rest()


def open_jobs(statuses: Sequence[Status]) -> int:
    return sum(not status.ended for status in statuses)
