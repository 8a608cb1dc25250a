"""Run every job of a study: make sweep STUDY=<name> EXP=<kind>_<data> [OUT=…] [SHARDS=…] [ARGS=…]."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from threeshnet.cli import kept, run
from threeshnet.installation import CONF
from threeshnet.studies.overrides import divided


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="sweep")
@kept
def main(cfg: DictConfig) -> None:
    from threeshnet.studies.sweep import sweep  # takes seconds, and --help takes none

    sweep(cfg)


if __name__ == "__main__":
    own = [str(key) for key in OmegaConf.load(CONF / "sweep.yaml")]
    sys.argv[1:] = divided(sys.argv[1:], own)
    run(main)
