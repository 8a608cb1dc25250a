"""Copy a study's finished runs to experiments/<study>/results.csv: make collect STUDY=<name> [OUT=…]."""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from threeshnet.commands import CONF, kept, run
from threeshnet.commands.preparing import load_study
from threeshnet.errors import DataError
from threeshnet.studies.rows import collect

RESULTS = "results.csv"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="collect")
@kept
def main(cfg: DictConfig) -> None:
    study = load_study(cfg.study)
    out = Path(cfg.out or f"runs/{study.name}")
    folders = sorted(file.parent for file in out.glob("*/job.json"))
    if not folders:
        raise DataError(f"{out} holds no <job>/job.json; run it first: make sweep STUDY={study.name} EXP=<experiment>")
    file = into(cfg, study.name) / RESULTS
    count, unfinished = collect(folders, file, factors=list(study.factors), setting=cfg.setting, replace=cfg.replace)
    console = Console()
    for line in unfinished:
        console.print(f"not finished: {line}", markup=False, highlight=False, soft_wrap=True)
    rows = f"{count} rows in {file}; now: make report STUDY={study.name}" if count else "nothing is finished yet"
    console.print(rows, markup=False, highlight=False, soft_wrap=True)


def into(cfg: DictConfig, study: str) -> Path:
    """The study's folder of committed results."""
    return Path(cfg.into) if cfg.into else CONF.parent / "experiments" / study


if __name__ == "__main__":
    run(main)
