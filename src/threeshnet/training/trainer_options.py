"""What `trainer.*` may say: settings of Lightning's Trainer that are tested together, and two of our own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any

import torch

from threeshnet.errors import ConfigError, Problems, one_of
from threeshnet.nn.precision import precision_of
from threeshnet.threads import cores

OURS = ("sync_batchnorm", "compile")  # the module's, not Lightning's
PROCESSES_A_CORE = 16  # more is a slip of the pen, and takes the memory of the machine
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")
IN_HALVES = "weights kept in halves forget steps of the size of the learning rate"
SHARDED = "weights and AdamW's state are 2 GB with bert-base and fit every GPU, so nothing is gained by sharding them"


def lightning_options(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """The options of Lightning's Trainer.  Raises ConfigError, once, for all that do not go together."""
    settings, problems = dict(trainer), Problems("trainer")
    given = str(settings["precision"])
    try:
        settings["precision"] = precision_of(given, settings["accelerator"], "trainer.precision")
    except ConfigError as error:
        problems.add(str(error) + (f" ({IN_HALVES})" if "true" in given else ""))
    strategy = settings["strategy"]
    if isinstance(strategy, dict):  # a DDPStrategy with options of its own
        strategy = "ddp" if str(strategy.get("_target_")).endswith(".DDPStrategy") else strategy.get("_target_")
    if strategy not in STRATEGIES:
        problems.add(f"{one_of('trainer.strategy', str(strategy), STRATEGIES)} ({SHARDED})")
    devices = str(settings["devices"])
    if devices.isdigit() and _on_cpu(settings["accelerator"]) and int(devices) > (most := PROCESSES_A_CORE * cores()):
        problems.add(f"trainer.devices={devices}: {most} processes are the most on this machine's {cores()} CPU cores")
    if settings["accumulate_grad_batches"] < 1:
        problems.add(f"trainer.accumulate_grad_batches={settings['accumulate_grad_batches']} must be at least 1")
    problems.raise_as(ConfigError, "docs/guides/many_gpus.md says what each of them does.")
    return {key: value for key, value in settings.items() if key not in OURS}


def module_options(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the training module.  Raises ConfigError."""
    return {"sync_batchnorm": trainer["sync_batchnorm"], "compile": _backend(trainer["compile"])}


def _backend(asked: bool | str | None) -> str | None:
    """Of torch.compile; `true` is inductor."""
    if not asked:
        return None
    backend = "inductor" if asked is True else str(asked)
    backends = torch.compiler.list_backends(exclude_tags=())
    if backend not in backends:
        raise ConfigError(one_of("trainer.compile", backend, ["true", "false", *backends]))
    if backend == "inductor" and not torch.cuda.is_available() and not shutil.which(os.environ.get("CXX", "g++")):
        raise ConfigError("trainer.compile=true needs a C++ compiler on CPUs: install g++, or say where one is by CXX=")
    return backend


def _on_cpu(accelerator: str) -> bool:
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    return accelerator == "cpu" or (accelerator == "auto" and not gpu)
