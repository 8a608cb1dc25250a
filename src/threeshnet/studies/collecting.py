"""How a study's finished runs become the rows of experiments/<study>/results.csv."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from threeshnet.errors import DataError
from threeshnet.installation import CONF
from threeshnet.studies.preparing import load_study
from threeshnet.studies.rows import collect

RESULTS = "results.csv"


def collect_rows(cfg: DictConfig) -> None:
    """A study's finished runs become rows."""
    study = load_study(cfg.study)
    out = Path(cfg.out or f"runs/{study.name}")
    folders = sorted(file.parent for file in out.glob("*/job.json"))
    if not folders:
        raise DataError(f"{out} holds no <job>/job.json; run it first: make sweep STUDY={study.name} EXP=<experiment>")
    file = into(cfg, study.name) / RESULTS
    kept = {"setting": cfg.setting_name, "replace": cfg.replace}
    count, unfinished = collect(folders, file, factors=list(study.factors), **kept)
    console = Console()
    for line in unfinished:
        console.print(f"not finished: {line}", markup=False, highlight=False, soft_wrap=True)
    rows = f"{count} rows in {file}; now: make report STUDY={study.name}" if count else "nothing is finished yet"
    console.print(rows, markup=False, highlight=False, soft_wrap=True)


def into(cfg: DictConfig, study: str) -> Path:
    """The study's folder of committed results."""
    return Path(cfg.into) if cfg.into else CONF.parent / "experiments" / study
