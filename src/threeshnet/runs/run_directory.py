"""Where a run lies, and that one process at a time works there."""

from __future__ import annotations

import errno
import os
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

from threeshnet import files
from threeshnet.cli.errors import SHARED_OUT
from threeshnet.errors import ConfigError
from threeshnet.runs.checkpoint_names import LAST
from threeshnet.training.rank import rank

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


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder; the system frees a dead process's lock.  Raises ConfigError when it is taken.

    Where a file system has no locks, a file with the owner's name does: it is taken over when that process of this
    machine is gone. Of another machine nobody can tell, so its file stays.
    """
    if rank() != 0:
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


def write_config(cfg: DictConfig, folder: Path) -> None:
    """The resolved config of the run, without what Hydra adds; by one process."""
    if rank() == 0:
        resolved = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))  # pyright: ignore[reportArgumentType]
        files.write_text(folder / CONFIG, OmegaConf.to_yaml(resolved))


def write_json(file: Path, content: dict[str, Any]) -> None:
    """A JSON file, by one process."""
    if rank() == 0:
        files.write_json(file, content)
