"""job.json: which run this is, for those who look for it again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from threeshnet.commands import current_commit
from threeshnet.commands import run_directory as runs
from threeshnet.shards.manifest import Manifest
from threeshnet.studies.identity import data_fingerprint, identity

JOB = "job.json"


def write_job(cfg: DictConfig, folder: Path, manifest: Manifest) -> None:
    """Writes `folder`/job.json: what the run is, whose it is, and what it runs on."""
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    fingerprint = data_fingerprint(manifest)
    record = {
        "identity": identity(settings, fingerprint),
        "study": cfg.study,
        "job_name": cfg.job_name,
        "factors": settings["factors"] or {},
        "seed": cfg.seed,
        "experiment": cfg.experiment_name,
        "setting": HydraConfig.get().runtime.choices.get("setting"),
        "recipe": HydraConfig.get().runtime.choices.get("recipe"),
        "data": manifest.dataset,
        "fingerprint": fingerprint,
        "commit": current_commit(),
        "machine": machine(),
    }
    runs.write_json(folder / JOB, record)


def machine() -> str:
    """The class of machine, without its name: `2 CPU cores` or `1 x NVIDIA H100, 16 CPU cores`."""
    cores = f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} CPU cores"
    cards = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join([*(f"{cards.count(card)} x {card}" for card in dict.fromkeys(cards)), cores])
