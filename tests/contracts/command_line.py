"""Settings as a command looks at them when they come from a command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from threeshnet.cli.settings import check_settings

CONF = Path(__file__).parents[2] / "conf"


def taken(command: str, overrides: Sequence[str], looked_at: Callable[[str], bool] = lambda _: True) -> DictConfig:
    """The settings of a command, composed and looked at: those of the overrides that `looked_at` picks.

    Raises what Hydra raises, and ConfigError as the command itself would.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(command, list(overrides), return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra.overrides.task = [override for override in overrides if looked_at(override)]
    HydraConfig.instance().set_config(cfg)
    try:
        with open_dict(cfg):
            del cfg["hydra"]
        check_settings(cfg)
    finally:
        HydraConfig.instance().cfg = None
    return cfg
