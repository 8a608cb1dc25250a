"""The door: what was typed becomes a verb's configuration here, and nowhere else."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from threeshnet.cli.errors import explained, invocation, kept, quiet, report_errors
from threeshnet.cli.settings import check_settings
from threeshnet.errors import ConfigError
from threeshnet.installation import CONF
from threeshnet.studies.overrides import divided

VERSION_BASE = "1.3"
REST = "overrides"  # a verb with this key takes the words that are none of its own settings
NEEDED_TO_HELP = {"data": "data=demo"}  # Hydra composes before it helps, and there is no data set by default


def run(verb: str, words: Sequence[str]) -> None:
    """Run a verb as the command line asks: once, as a multirun, or its help.  Ends the process when it fails."""
    primary = OmegaConf.load(CONF / f"{verb}.yaml")
    command_line = [sys.argv[0], verb, *words]
    words = divided(words, [str(key) for key in primary]) if REST in primary else list(words)
    if {"--help", "-h"} & set(words) and verb in NEEDED_TO_HELP:
        words += [word for word in [NEEDED_TO_HELP[verb]] if not any(given.startswith(f"{verb}=") for given in words)]

    @kept
    def task(cfg: DictConfig) -> Any:
        sys.argv = command_line  # Lightning starts its other processes by it
        check_settings(cfg)
        with open_dict(cfg):
            function = get_method(cfg.pop("_target_"))
        quiet()
        takes_invocation = "invocation" in inspect.signature(function).parameters
        return function(cfg, invocation()) if takes_invocation else function(cfg)

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra else prints its own shortened traceback
    sys.argv = [f"threeshnet {verb}", *words]
    main = hydra.main(version_base=VERSION_BASE, config_path=str(CONF), config_name=verb)(task)
    report_errors(main, verb, words)


def compose_training(overrides: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
    """The configuration of `train`, and the choice of every group.  Raises ConfigError that says what is wrong."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base=VERSION_BASE):
            cfg = compose("train", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explained(error, "train", overrides)) from error
    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"], cfg["_target_"]
    return cfg, choices
