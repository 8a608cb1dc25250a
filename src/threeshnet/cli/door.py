"""The door: what was typed becomes the settings of a verb here, and nowhere else."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra import compose, initialize_config_dir, version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode, TaskFunction
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from threeshnet.cli.errors import explained, for_terminals, handled, in_choices, quiet, report_errors, wrong_choices
from threeshnet.cli.words import expanded
from threeshnet.errors import ConfigError, Problems
from threeshnet.installation import CONF, conf_files, own_conf
from threeshnet.overrides import divided

if TYPE_CHECKING:
    from threeshnet.settings import Invocation, Settings, TrainSettings

VERSION_BASE = "1.3"
REST = "overrides"  # a verb with this key takes the words that are none of its own settings
NEEDED = re.compile(r"^(\w+): \?\?\? # (.+)$", re.MULTILINE)  # a setting of a verb that has to be given


def run(verb: str, words: Sequence[str]) -> None:
    """Run a verb as the command line asks: once, as a multirun, or its help.  Ends the process when it fails."""
    command_line = [sys.argv[0], verb, *words]
    try:
        words = expanded(verb, words, primary(verb))
    except ConfigError as error:
        sys.exit(for_terminals(str(error)))
    words = divided(words, list(primary(verb))) if REST in primary(verb) else list(words)

    @functools.partial(handled, verb=verb)
    def task(cfg: DictConfig) -> Any:
        sys.argv = command_line  # Lightning starts its other processes by it
        settings = settings_of(verb, cfg, words)
        function = get_method(primary(verb)["_target_"])
        quiet()
        takes_invocation = "invocation" in inspect.signature(function).parameters
        return function(settings, invocation()) if takes_invocation else function(settings)

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra else prints its own shortened traceback
    sys.argv = [f"threeshnet {verb}", *words]
    if own_conf() is None and not any(word.startswith(("-", "hydra.mode")) for word in words):
        main = functools.partial(_run_once, verb, words, task)
    else:
        main = hydra.main(version_base=VERSION_BASE, config_path=str(CONF), config_name=verb)(task)
    report_errors(main, verb, words)


def _run_once(verb: str, words: Sequence[str], task: TaskFunction) -> None:
    """What `hydra.main` does with plain words, which would compose everything twice, first to look for `hydra.mode`."""
    version.setbase(VERSION_BASE)
    job = Hydra.create_main_hydra2(verb, create_config_search_path(str(CONF)))
    try:
        job.run(config_name=verb, task_function=task, overrides=list(words))
    finally:
        GlobalHydra.instance().clear()


@functools.cache
def primary(verb: str) -> dict[str, Any]:
    """`conf/<verb>.yaml` as it stands, with none of its defaults."""
    content: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{verb}.yaml"))
    return content


def invocation() -> Invocation:
    """How Hydra was asked to run this job."""
    from threeshnet.settings import Invocation

    hydra = HydraConfig.get()
    output = Path(hydra.runtime.output_dir) if hydra.mode == RunMode.MULTIRUN else None
    return Invocation(str(hydra.job.config_name), tuple(hydra.overrides.task), dict(hydra.runtime.choices), output)


def compose_training(overrides: Sequence[str]) -> tuple[TrainSettings, dict[str, Any]]:
    """The settings of `train`, and the choice of every group.  Raises ConfigError that says what is wrong."""
    settings: Any
    settings, choices = compose_settings("train", overrides)
    return settings, choices


def compose_settings(verb: str, overrides: Sequence[str]) -> tuple[Settings, dict[str, Any]]:
    """The settings of a verb, and the choice of every group.  Raises ConfigError that says what is wrong."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base=VERSION_BASE):
            cfg = compose(verb, list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explained(error, verb, overrides)) from error
    except ValueError as error:
        if in_choices(error) and (message := wrong_choices(overrides)):
            raise ConfigError(message) from error
        raise
    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
    return settings_of(verb, cfg, overrides), choices


def settings_of(verb: str, cfg: DictConfig, words: Sequence[str]) -> Settings:
    """The settings of a verb.  Raises ConfigError, once, for all that are missing, unknown or of another type."""
    from threeshnet.cli.validation import validated  # half a second that --help spares

    nodes: Any = {key: cfg._get_node(key) for key in cfg}  # as they stand: no interpolation is followed
    if missing := [str(key) for key, node in nodes.items() if node._is_missing()]:
        raise ConfigError(_missing(verb, missing))
    try:
        tree: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explained(error, verb, words)) from error
    problems = Problems("settings")
    settings, faults = validated(verb, tree)
    problems.extend(faults.values())
    if tree.get("_target_") != primary(verb)["_target_"]:
        problems.add("_target_ is not a setting")
    problems.raise_as(ConfigError, f"threeshnet {verb} --help shows the defaults.")
    assert settings is not None
    return settings


def _choices(group: str) -> str:
    names = sorted(conf_files(group))
    return f"; there are: {', '.join(names)}" if names else ""


def _missing(verb: str, missing: Sequence[str]) -> str:
    """Which settings have to be given and were not, each with what the verb's file says of it."""
    says = dict(NEEDED.findall((CONF / f"{verb}.yaml").read_text(encoding="utf-8")))
    lines = [f"{key}= is missing{f': {says[key]}' if key in says else ''}{_choices(key)}" for key in missing]
    return "\n".join([*lines, f"(threeshnet {verb} --help; what make calls it: make)"])
