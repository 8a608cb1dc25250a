"""Look through shards, name every fault, write the data card: make verify SHARDS=<folder>."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from threeshnet.cli import kept, run
from threeshnet.installation import CONF


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="verify")
@kept
def main(cfg: DictConfig) -> None:
    from threeshnet.cli.verifying import verify_shards  # takes seconds, and --help takes none

    verify_shards(cfg)


if __name__ == "__main__":
    run(main)
