"""Score checkpoints on a split: make evaluate CKPT=<file> SHARDS=<folder> SPLIT=<split> [PROTOCOL=…] [TEXT=…]."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from threeshnet.cli import kept, run
from threeshnet.cli.errors import invocation
from threeshnet.installation import CONF


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
@kept
def main(cfg: DictConfig) -> None:
    from threeshnet.evaluation.evaluate import evaluate  # takes seconds, and --help takes none

    evaluate(cfg, invocation())


if __name__ == "__main__":
    run(main)
