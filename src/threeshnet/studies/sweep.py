"""How the jobs of a study are run: all of them, or those that a search asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from threeshnet.errors import ConfigError, Problems
from threeshnet.runs import run_directory as runs
from threeshnet.runs.folders import finished_runs, is_finished, let_go, other_run, point_at
from threeshnet.runs.job_record import JOB
from threeshnet.studies.board import Board
from threeshnet.studies.launch import Local, Starter
from threeshnet.studies.multirun import end
from threeshnet.studies.plan import chosen, plan
from threeshnet.studies.prepare import Prepared, prepare
from threeshnet.studies.scheduler import EARLIER, Runner, Status
from threeshnet.studies.study import Study, load_study


def sweep(cfg: DictConfig) -> None:
    """All jobs of a study, or its search; ends the process by what came of them."""
    study = load_study(cfg.study)
    out = Path(cfg.out or f"runs/{study.name}").absolute()
    with runs.locked(out):
        statuses = search(cfg, study, out) if study.search is not None else run_all(cfg, study, out)
    end(statuses)


def run_all(cfg: DictConfig, study: Study, out: Path) -> list[Status]:
    """Every level with every seed."""
    prepared = prepare(chosen(plan(study, list(cfg.overrides)), cfg.only), study, out)
    statuses = begin(prepared, [*map(Path, cfg.reuse), out])
    board = Board(statuses, title=f"{study.name}: {study.title}")
    runner = Runner(starter=starter_of(cfg, prepared, out), changed=board.changed)
    with board.shown():
        for status in statuses:
            if status.ended:
                board.changed(status)
        runner.run(statuses, board.look)
    return statuses


def search(cfg: DictConfig, study: Study, out: Path) -> list[Status]:
    """Trials by Optuna, selected by dev rsum alone; then says which was best."""
    from threeshnet.studies.search import Trials, run_search  # Optuna is an extra

    assert study.search is not None
    first = plan(study, list(cfg.overrides))[0]

    def job_of(number: int, values: Mapping[str, Any]) -> Status:
        words = (*(f"{key}={value}" for key, value in values.items()), *first.overrides)
        factors = {key: f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in values.items()}
        planned = replace(first, name=f"trial={number:04d}", overrides=words, factors=factors)
        return begin(prepare([planned], study, out), [*map(Path, cfg.reuse), out])[0]

    trials = cfg.trials or study.search.trials
    asked = Trials(study.search.model_copy(update={"trials": trials}), out, job_of, seed=first.seed)
    statuses: list[Status] = []
    board = Board(statuses, title=f"{study.name}: {study.title}")
    starter = starter_of(cfg, prepare([first], study, out), out)
    with board.shown():
        runner = Runner(starter=starter, changed=board.changed)
        run_search(asked, runner, statuses, board.look, cfg.parallel or starter.parallel)
    Console().print(asked.best(), markup=False, highlight=False, soft_wrap=True)
    return statuses


def begin(prepared: Sequence[Prepared], roots: Sequence[Path]) -> list[Status]:
    """What is finished already is not run again, wherever it lies.  Raises ConfigError for folders of other runs."""
    problems = Problems("these folders are taken")
    for each in prepared:
        problems.extend(filter(None, [other_run(each.job.folder, each.identity, each.settings)]))
    problems.raise_as(ConfigError, "Give another OUT (out=<folder>), or delete them.")
    known = finished_runs(roots)
    statuses = [Status(each.job) for each in prepared]
    for each, status in zip(prepared, statuses, strict=True):
        folder, source = each.job.folder, known.get(each.identity)
        if not is_finished(folder, each.identity):
            let_go(folder)
            if source is not None:
                point_at(source, folder, each.record)
                status.note = str(source)
            elif each.planned.of:
                runs.write_json(folder / JOB, dict(each.record))
        if is_finished(folder, each.identity):
            status.state = EARLIER
    return statuses


def starter_of(cfg: DictConfig, prepared: Sequence[Prepared], out: Path) -> Starter:
    """This machine, or a cluster."""
    cards = max((each.cards for each in prepared), key=len)
    if cfg.cluster.executor is None:
        return Local(parallel=cfg.parallel, cards=cards, jobs_per_gpu=cfg.jobs_per_gpu)
    if cfg.jobs_per_gpu != 1:
        raise ConfigError(f"jobs_per_gpu={cfg.jobs_per_gpu}: on a cluster the scheduler gives each job its own GPUs")
    from threeshnet.studies.cluster import Cluster  # submitit is an extra

    options = OmegaConf.to_container(cfg.cluster.options or OmegaConf.create({}))
    return Cluster(executor=cfg.cluster.executor, folder=out / "submitted", options=options)  # pyright: ignore
