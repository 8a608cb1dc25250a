"""Photos and captions to shards: make data DATA=<name> [RAW=<folder>] [OUT=<shards>] [ARGS=…]."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from threeshnet.cli import kept, run
from threeshnet.installation import CONF


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="shards")
@kept
def main(cfg: DictConfig) -> None:
    from threeshnet.cli.making import make_data  # takes seconds, and --help takes none

    make_data(cfg)


if __name__ == "__main__":
    if {"--help", "-h"} & set(sys.argv) and not any(word.startswith("data=") for word in sys.argv):
        sys.argv.append("data=demo")  # Hydra composes before it helps, and there is no data set by default
    run(main)
