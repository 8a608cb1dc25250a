"""job.json: which run this is, for those who look for it again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from threeshnet.installation import current_commit
from threeshnet.runs import run_directory as runs
from threeshnet.runs.identity import data_fingerprint, identity, views_read
from threeshnet.shards.manifest import Manifest

JOB = "job.json"


def about_run(cfg: DictConfig, shards: Path, manifest: Manifest) -> dict[str, Any]:
    """What a training says of itself, in its checkpoints and in all that is scored with them. Needs Hydra's choices."""
    choices = HydraConfig.get().runtime.choices
    return {
        "experiment": cfg.experiment_name,
        **{group: choices.get(group) for group in ("setting", "recipe", "text", "objective")},
        "data": manifest.dataset,
        "fingerprint": data_fingerprint(manifest),
        "train_splits": list(cfg.data.train_splits),
        "train_images": cfg.batches.limit_train_images
        or sum(manifest.splits[name].images for name in cfg.data.train_splits if name in manifest.splits),
        "views": views_read(shards, cfg.augment.views),
        "features": ", ".join(cfg.features.fields),
        "guidance": list(cfg.fusion),
        "parts": list(cfg.parts),
        "seed": cfg.seed,
        "selection": cfg.selection,
        "batch_size": cfg.batches.batch_size,
        "epochs": cfg.trainer.max_epochs,
        "precision": str(cfg.trainer.precision),
        "commit": current_commit(),
    }


def write_job(cfg: DictConfig, folder: Path, about: Mapping[str, Any]) -> None:
    """Writes `folder`/job.json: what the run is, whose it is, and what it runs on."""
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    record = {
        "identity": identity(settings, about["fingerprint"], about["views"]),
        "study": cfg.study,
        "job_name": cfg.job_name,
        "factors": settings["factors"] or {},
        **{name: about[name] for name in ("seed", "experiment", "setting", "recipe", "data", "fingerprint", "commit")},
        "machine": machine(),
    }
    runs.write_json(folder / JOB, record)


def machine() -> str:
    """The class of machine, without its name: `2 CPU cores` or `1 x NVIDIA H100, 16 CPU cores`."""
    cores = f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} CPU cores"
    cards = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join([*(f"{cards.count(card)} x {card}" for card in dict.fromkeys(cards)), cores])
