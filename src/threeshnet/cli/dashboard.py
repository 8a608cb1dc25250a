"""The page of a study, and its workspace and report at W&B: make dashboard STUDY=<name> [OUT=runs/<name>]."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from threeshnet.cli import kept, run
from threeshnet.installation import CONF


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="dashboard")
@kept
def main(cfg: DictConfig) -> None:
    from threeshnet.reports.showing import show_study  # takes seconds, and --help takes none

    show_study(cfg)


if __name__ == "__main__":
    run(main)
