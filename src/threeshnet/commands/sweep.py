"""Run every job of a study: make sweep STUDY=<name> EXP=<kind>_<data> [OUT=…] [SHARDS=…] [ARGS=…]."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from threeshnet.commands import CONF, kept, run
from threeshnet.commands import run_directory as runs
from threeshnet.commands.preparing import divided, load_study
from threeshnet.commands.sweeping import run_all, search
from threeshnet.studies.multirun import end


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="sweep")
@kept
def main(cfg: DictConfig) -> None:
    study = load_study(cfg.study)
    out = Path(cfg.out or f"runs/{study.name}").absolute()
    with runs.locked(out):
        statuses = search(cfg, study, out) if study.search else run_all(cfg, study, out)
    end(statuses)


if __name__ == "__main__":
    own = [str(key) for key in OmegaConf.load(CONF / "sweep.yaml")]
    sys.argv[1:] = divided(sys.argv[1:], own)
    run(main)
