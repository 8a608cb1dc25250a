"""Copy a study's finished runs to experiments/<study>/results.csv: make collect STUDY=<name> [OUT=…]."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from threeshnet.cli import kept, run
from threeshnet.installation import CONF


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="collect")
@kept
def main(cfg: DictConfig) -> None:
    from threeshnet.studies.collect import collect_rows  # takes seconds, and --help takes none

    collect_rows(cfg)


if __name__ == "__main__":
    run(main)
