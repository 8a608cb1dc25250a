"""Is one model better than another on the same photos? make compare ONE=<folder> OTHER=<folder> [OUT=<folder>]."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from threeshnet.cli import kept, run
from threeshnet.installation import CONF


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="compare")
@kept
def main(cfg: DictConfig) -> None:
    from threeshnet.evaluation.compare import compare_evaluations  # takes seconds, and --help takes none

    compare_evaluations(cfg)


if __name__ == "__main__":
    run(main)
