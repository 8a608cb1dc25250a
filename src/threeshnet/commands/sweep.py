"""Run every job of a study: make sweep STUDY=<name> EXP=<kind>_<data> [OUT=…] [SHARDS=…] [ARGS=…]."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from threeshnet.commands import CONF, run
from threeshnet.commands import run_directory as runs
from threeshnet.commands.preparing import Prepared, divided, load_study, prepare
from threeshnet.errors import ConfigError, Problems
from threeshnet.studies.board import Board
from threeshnet.studies.folders import finished_runs, is_finished, let_go, other_run, point_at
from threeshnet.studies.launching import Local, Starter
from threeshnet.studies.multirun import end
from threeshnet.studies.running import EARLIER, Runner, Status
from threeshnet.studies.study import Planned, plan

SWEEP = "sweep.json"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="sweep")
def main(cfg: DictConfig) -> None:
    study = load_study(cfg.study)
    out = Path(cfg.out or f"runs/{study.name}").absolute()
    planned = chosen(plan(study, list(cfg.overrides)), cfg.only)
    prepared = prepare(planned, study, out)
    with runs.locked(out):
        statuses = begin(prepared, [*map(Path, cfg.reuse), out])
        board = Board(statuses, title=f"{study.name}: {study.title}")
        runner = Runner(starter=starter_of(cfg, prepared, out), changed=board.changed)
        with board.shown():
            for status in statuses:
                if status.ended:
                    board.changed(status)
            runner.run(statuses, board.look)
    end(statuses)


def chosen(planned: Sequence[Planned], pattern: str | None) -> list[Planned]:
    """The jobs whose names fit the pattern, and those that they are derived from."""
    if pattern is None:
        return list(planned)
    fitting = {name for job in planned if fnmatch(job.name, pattern) for name in (job.name, *job.of)}
    if not fitting:
        raise ConfigError(f"only={pattern!r} fits no job; there are: {', '.join(job.name for job in planned)}")
    return [job for job in planned if job.name in fitting]


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
                runs.write_json(folder / "job.json", dict(each.record))
        if is_finished(folder, each.identity):
            status.state = EARLIER
    return statuses


def starter_of(cfg: DictConfig, prepared: Sequence[Prepared], out: Path) -> Starter:
    """This machine, or a cluster."""
    cards = max((each.cards for each in prepared), key=len)
    if cfg.cluster.executor is None:
        return Local(parallel=cfg.parallel, cards=cards)
    from threeshnet.studies.cluster import Cluster  # submitit is an extra

    options = OmegaConf.to_container(cfg.cluster.options or OmegaConf.create({}))
    return Cluster(executor=cfg.cluster.executor, folder=out / "submitted", options=options)  # pyright: ignore


if __name__ == "__main__":
    own = list(OmegaConf.load(CONF / "sweep.yaml"))
    sys.argv[1:] = divided(sys.argv[1:], [str(key) for key in own])
    run(main)
