"""Where a run lies, and that one process at a time works there."""

from __future__ import annotations

import errno
import json
import logging
import os
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from threeshnet.commands.errors import SHARED_OUT
from threeshnet.errors import ConfigError, Interrupted
from threeshnet.training.checkpoint_files import BEST, LAST, newest_whole
from threeshnet.training.keeping import EPOCHS
from threeshnet.training.processes import leave_together

log = logging.getLogger(__name__)
CHECKPOINTS, METRICS, CONFIG, HIGHLIGHTS = "checkpoints", "metrics.json", "config.yaml", "highlights"
LOCK, OWNER = ".lock", ".lock.owner"
STARTED_BESIDE_OTHERS = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")  # torchrun's and srun's word for how many there are
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)  # what file systems without flock say, beside ENOSYS


def run_directory(cfg: DictConfig) -> Path:
    """`out`, a multirun's folder for this job, the newest run to resume, or a new folder named by the time.

    Raises ConfigError where torchrun or srun has started several processes without `out`: each would name another.
    """
    if shared := os.environ.get(SHARED_OUT):
        return Path(shared)
    hydra = HydraConfig.get()
    if cfg.out:
        folder = Path(cfg.out)
    elif hydra.mode == RunMode.MULTIRUN:
        folder = Path(hydra.runtime.output_dir)
    elif together := next((name for name in STARTED_BESIDE_OTHERS if int(os.environ.get(name) or 1) > 1), None):
        raise ConfigError(f"{together}={os.environ[together]} processes need one folder: give it as out=<folder>")
    else:
        runs = Path("runs") / cfg.experiment_name
        earlier = sorted(file.parents[1] for file in runs.glob(f"*/{CHECKPOINTS}/{LAST}")) if cfg.resume else []
        folder = earlier[-1] if earlier else runs / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return folder.absolute()


def checkpoint_to_resume(cfg: DictConfig, folder: Path) -> Path | None:
    """The newest whole checkpoint when `resume` is set.  Raises ConfigError for a folder that holds another run."""
    last = folder / CHECKPOINTS / LAST
    if not cfg.resume:
        if last.exists() and rank_zero_only.rank == 0:
            raise ConfigError(
                f"out={folder} holds a run already ({last.relative_to(folder)}): go on with it by RESUME=1 "
                "(resume=true), or give another OUT (out=<folder>)"
            )
        return None
    newest = newest_whole(folder / CHECKPOINTS)
    if newest is None:
        log.warning("resume=true, but %s is not there: starting afresh", last)
    return newest


def finished(cfg: DictConfig, folder: Path, checkpoint: dict[str, Any] | None) -> dict[str, Any] | None:
    """The metrics of a run that has nothing left to do under this config; else None.

    What was scored before a run went on (with more epochs, or another selection) keeps its place under another name.
    """
    file = folder / METRICS
    if checkpoint is None or not file.is_file():
        return None
    metrics = json.loads(file.read_text(encoding="utf-8"))
    epochs, steps = checkpoint.get(EPOCHS, 0), checkpoint["global_step"]
    ended = epochs >= cfg.trainer.max_epochs >= 0 or steps >= cfg.trainer.max_steps >= 0
    selection = selected(cfg.selection, folder)[0]
    if ended and (metrics["steps"], metrics["selection"]) == (steps, selection):
        return metrics
    if rank_zero_only.rank == 0:
        file.replace(file.with_name(f"metrics_of_step_{metrics['steps']}_{metrics['selection']}.json"))
    return None


def selected(selection: str, folder: Path) -> tuple[str, Path]:
    """The checkpoint to score. Without a finished epoch there is no best one; then it is the last weights."""
    best, last = folder / CHECKPOINTS / BEST, folder / CHECKPOINTS / LAST
    return ("best", best) if selection == "best" and best.exists() else ("last", last)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder; the system frees a dead process's lock.  Raises ConfigError when it is taken.

    Where a file system has no locks, a file with the owner's name does: it is taken over when that process of this
    machine is gone. Of another machine nobody can tell, so its file stays.
    """
    if rank_zero_only.rank != 0:
        yield
        return
    with _writable(folder):
        lock = _acquired(folder)
    os.environ[SHARED_OUT] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(SHARED_OUT, None)
        (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def _acquired(folder: Path) -> BaseFileLock:
    folder.mkdir(parents=True, exist_ok=True)
    lock: BaseFileLock = FileLock(folder / LOCK, timeout=0)
    owner = folder / OWNER
    try:
        try:
            lock.acquire()
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            lock = SoftFileLock(folder / f"{LOCK}.soft", timeout=0)
            lock.acquire()
    except Timeout as taken:
        by = owner.read_text(encoding="utf-8").strip() if owner.is_file() else "another process"
        raise ConfigError(f"out={folder}: {by} is working there; wait for it or give another OUT") from taken
    owner.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
    return lock


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"out={folder} cannot be written: {error.strerror}; give another OUT (out=<folder>)"
        ) from error


@contextmanager
def going_on(folder: Path) -> Iterator[None]:
    """An interrupted run says how to go on with it, and its processes end together."""
    try:
        yield
    except Interrupted as interrupted:
        leave_together()
        given = HydraConfig.get().overrides.task
        words = [word for word in given if word.split("=")[0] not in ("out", "resume")]
        quoted = "'" if "=" in str(folder) or " " in str(folder) else ""
        words += [f"out={quoted}{folder}{quoted}", "resume=true"]
        command = shlex.join(["python", "-m", "threeshnet.commands.train", *words])
        raise Interrupted(f"{interrupted}. To go on: {command}") from interrupted


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
