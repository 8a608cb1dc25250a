"""Published feature arrays to shards: make import RAW=<folder> OUT=<shards> [ARGS=…]."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from threeshnet.cli import kept, run
from threeshnet.installation import CONF


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="imports")
@kept
def main(cfg: DictConfig) -> None:
    from threeshnet.cli.importing import import_arrays  # takes seconds, and --help takes none

    import_arrays(cfg)


if __name__ == "__main__":
    run(main)
