"""Where a run lies, and that one process at a time works there."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from threeshnet.errors import ConfigError

log = logging.getLogger(__name__)
CHECKPOINTS, LAST, BEST, METRICS, CONFIG = "checkpoints", "last.ckpt", "best.ckpt", "metrics.json", "config.yaml"
HIGHLIGHTS = "highlights"
SHARED_OUT = "THREESHNET_RUN_DIRECTORY"  # tells the processes that Lightning starts where rank 0 works


def run_directory(cfg: DictConfig) -> Path:
    """`out`, a multirun's folder for this job, the newest run to resume, or a new folder named by the time."""
    if shared := os.environ.get(SHARED_OUT):
        return Path(shared)
    hydra = HydraConfig.get()
    if cfg.out:
        folder = Path(cfg.out)
    elif hydra.mode == RunMode.MULTIRUN:
        folder = Path(hydra.runtime.output_dir)
    else:
        runs = Path("runs") / cfg.experiment_name
        earlier = sorted(file.parents[1] for file in runs.glob(f"*/{CHECKPOINTS}/{LAST}")) if cfg.resume else []
        folder = earlier[-1] if earlier else runs / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return folder.absolute()


def checkpoint_to_resume(cfg: DictConfig, folder: Path) -> Path | None:
    """The last checkpoint when `resume` is set.  Raises ConfigError for a folder that holds another run."""
    last = folder / CHECKPOINTS / LAST
    if not cfg.resume:
        if last.exists() and rank_zero_only.rank == 0:
            raise ConfigError(
                f"out={folder} holds a run already ({last.relative_to(folder)}): go on with it by RESUME=1 "
                "(resume=true), or give another OUT (out=<folder>)"
            )
        return None
    if not last.exists():
        log.warning("resume=true, but %s is not there: starting afresh", last)
        return None
    return last


def selected(selection: str, folder: Path, trainer: pl.Trainer) -> tuple[str, Path]:
    """The checkpoint to score. Without a finished epoch there is no best one; then it is the last weights."""
    best, last = folder / CHECKPOINTS / BEST, folder / CHECKPOINTS / LAST
    if selection == "best" and best.exists():
        return "best", best
    if selection == "best":
        log.warning("no epoch was finished, so no checkpoint was compared on dev: scoring the last weights")
    trainer.save_checkpoint(last)
    return "last", last


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder; the system frees a dead process's lock.  Raises ConfigError when it is taken."""
    if rank_zero_only.rank != 0:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as taken:
        raise ConfigError(f"out={folder}: another process is working there; wait for it or give another OUT") from taken
    os.environ[SHARED_OUT] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(SHARED_OUT, None)
        lock.release()


@rank_zero_only
def write_config(cfg: DictConfig, folder: Path) -> None:
    """The resolved config of the run, without what Hydra adds."""
    resolved = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))  # pyright: ignore[reportArgumentType]
    write_text(folder / CONFIG, OmegaConf.to_yaml(resolved))


@rank_zero_only
def write_json(file: Path, content: dict[str, Any]) -> None:
    """A JSON file, written aside and renamed."""
    write_text(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """A text file, written aside and renamed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)
