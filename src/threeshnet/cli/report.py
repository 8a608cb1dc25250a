"""Tables and figure of a study, or of all, from committed rows: make report [STUDY=<name>]."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from threeshnet.cli import kept, run
from threeshnet.installation import CONF


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="report")
@kept
def main(cfg: DictConfig) -> None:
    from threeshnet.reports.pages import rebuild  # takes seconds, and --help takes none

    rebuild(cfg)


if __name__ == "__main__":
    run(main)
