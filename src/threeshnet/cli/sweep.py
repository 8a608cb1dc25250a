"""Run every job of a study: make sweep STUDY=<name> EXP=<kind>_<data> [OUT=…] [SHARDS=…] [ARGS=…]."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from threeshnet.cli import kept, run
from threeshnet.cli.errors import explained
from threeshnet.errors import ConfigError
from threeshnet.installation import CONF
from threeshnet.studies.overrides import divided


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="sweep")
@kept
def main(cfg: DictConfig) -> None:
    from threeshnet.cli.shards_folder import shards_folder
    from threeshnet.studies.sweep import sweep  # takes seconds, and --help takes none

    sweep(cfg, compose=compose_training, shards_of=shards_folder)


def compose_training(overrides: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
    """The settings of `train`, and the choice of every group.  Raises ConfigError that says what is wrong."""
    try:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explained(error, "train")) from error
    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg, choices


if __name__ == "__main__":
    own = [str(key) for key in OmegaConf.load(CONF / "sweep.yaml")]
    sys.argv[1:] = divided(sys.argv[1:], own)
    run(main)
