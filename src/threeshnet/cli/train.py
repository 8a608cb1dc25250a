"""Train, select, score once: make train EXP=<kind>_<data> [SHARDS=…] [OUT=…] [RESUME=1] [ARGS=…]."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from threeshnet.cli import kept, run
from threeshnet.cli.errors import invocation
from threeshnet.installation import CONF


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
@kept
def main(cfg: DictConfig) -> None:
    from threeshnet.cli.training import train  # takes seconds, and --help takes none

    train(cfg, invocation())


if __name__ == "__main__":
    run(main)
