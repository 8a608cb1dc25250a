"""Settings as a command looks at them when they come from a command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from threeshnet.cli.validation import setting_faults
from threeshnet.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"


def taken(command: str, overrides: Sequence[str], looked_at: Callable[[str], bool] = lambda _: True) -> DictConfig:
    """The settings of a command, composed and validated: those of the overrides that `looked_at` picks.

    Raises what Hydra raises, and ConfigError as the command itself would.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(command, list(overrides))
    given = OverridesParser.create().parse_overrides([override for override in overrides if looked_at(override)])
    keys = [override.key_or_group for override in given]
    tree: Any = OmegaConf.to_container(cfg, resolve=not OmegaConf.is_missing(cfg, "data"))
    faults = [text for key, text in setting_faults(command, tree).items() if key.startswith(tuple(keys))]
    if faults:
        raise ConfigError("\n".join(faults))
    return cfg
