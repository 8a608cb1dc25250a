"""Runs the jobs of a study: all of them, or the trials of its search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from threeshnet.errors import ConfigError, Problems
from threeshnet.runs.find import finished_runs
from threeshnet.runs.run import Run
from threeshnet.settings import SweepSettings
from threeshnet.studies.board import Board
from threeshnet.studies.launch import Local, Starter
from threeshnet.studies.plan import chosen, plan
from threeshnet.studies.prepare import Compose, PreparedJob, Preparer
from threeshnet.studies.scheduler import Scheduler, State, Status, end
from threeshnet.studies.study import load_study


def sweep(settings: SweepSettings, *, compose: Compose) -> None:
    """Runs a study and ends as its jobs did.

    `compose` makes settings of overrides.  Raises JobsFailed when jobs failed, SystemExit(75) when interrupted.
    """
    runner = Sweep(settings, compose=compose)
    with Run(runner.out).lock():
        statuses = runner.run_all() if runner.study.search is None else runner.search(runner.study.search)
    end(statuses)


class Sweep:
    """A study with the folder of its runs."""

    def __init__(self, settings: SweepSettings, *, compose: Compose) -> None:
        self.settings, self.study = settings, load_study(settings.study)
        self.out = Path(settings.out or f"runs/{self.study.name}").absolute()
        self.preparer = Preparer(self.study, self.out, compose=compose)
        self.roots = [*map(Path, settings.reuse), self.out]
        self.title = f"{self.study.name}: {self.study.title}"

    def run_all(self) -> list[Status]:
        """Every level of every factor with every seed."""
        planned = chosen(plan(self.study, list(self.settings.overrides)), self.settings.only)
        prepared = self.preparer.prepare(planned)
        statuses = begin(prepared, self.roots)
        board = Board(statuses, title=self.title)
        scheduler = Scheduler(starter=starter_of(self.settings, prepared, self.out), changed=board.changed)
        with board.shown():
            for status in statuses:
                if status.ended:
                    board.changed(status)
            scheduler.run(statuses, board.look)
        return statuses

    def search(self, space: Any) -> list[Status]:
        """Trials by Optuna, judged by dev rsum alone; prints the best."""
        from threeshnet.studies.search import Trials, run_search  # Optuna is an extra

        first = plan(self.study, list(self.settings.overrides))[0]

        def job_of(number: int, values: Mapping[str, Any]) -> Status:
            words = (*(f"{key}={value}" for key, value in values.items()), *first.overrides)
            factors = {key: f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in values.items()}
            planned = replace(first, name=f"trial={number:04d}", overrides=words, factors=factors)
            return begin(self.preparer.prepare([planned]), self.roots)[0]

        space = space.model_copy(update={"trials": self.settings.trials or space.trials})
        trials, statuses = Trials(space, self.out, job_of, first.seed), []
        board = Board(statuses, title=self.title)
        starter = starter_of(self.settings, self.preparer.prepare([first]), self.out)
        with board.shown():
            scheduler = Scheduler(starter=starter, changed=board.changed)
            run_search(trials, scheduler, statuses, board.look, starter.parallel)
        Console().print(trials.best(), markup=False, highlight=False, soft_wrap=True)
        return statuses


def begin(prepared: Sequence[PreparedJob], roots: Sequence[Path]) -> list[Status]:
    """Statuses of the jobs; a run that is finished below `roots` is linked and does not run again.

    Raises ConfigError for folders that hold other runs.
    """
    problems = Problems("these folders are taken")
    for each in prepared:
        problems.extend(filter(None, [Run(each.job.folder).holds_another(each.identity, each.settings)]))
    problems.raise_as(ConfigError, "Give another OUT (out=<folder>), or delete them.")
    finished = finished_runs(roots)
    statuses = [Status(each.job) for each in prepared]
    for each, status in zip(prepared, statuses, strict=True):
        run, source = Run(each.job.folder), finished.get(each.identity)
        if not run.finished_as(each.identity):
            run.unlink()
            if source is not None:
                run.link_to(source, each.record)
                status.note = str(source.folder)
            elif each.planned.of:
                run.write_job(each.record)
        if run.finished_as(each.identity):
            status.state = State.EARLIER
    return statuses


def starter_of(settings: SweepSettings, prepared: Sequence[PreparedJob], out: Path) -> Starter:
    """This machine, or a cluster."""
    cluster = settings.cluster
    if cluster.executor is None:
        gpus = max((each.gpus for each in prepared), key=len)
        return Local(parallel=settings.parallel, gpus=gpus, jobs_per_gpu=settings.jobs_per_gpu)
    if settings.jobs_per_gpu != 1:
        raise ConfigError(f"jobs_per_gpu={settings.jobs_per_gpu}: on a cluster the scheduler gives each job its GPUs")
    from threeshnet.studies.cluster import Cluster  # submitit is an extra

    folder = out / "submitted"
    return Cluster(executor=cluster.executor, folder=folder, options=cluster.options or {}, parallel=settings.parallel)
