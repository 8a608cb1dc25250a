"""A job is a process of its own: its command line, its surroundings, and the processors that it is given."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from threeshnet.errors import ConfigError

OUTPUT = "output.log"  # what a job writes to stdout and stderr, in its run directory
TRAIN = "threeshnet.cli.train"
SECONDS_TO_SAVE = "120"  # that torchrun leaves to its processes after a signal
# Of an outer run, torchrun or batch job: a job that inherits them would take itself for a part of that.
NOT_INHERITED = ("THREESHNET_RUN_DIRECTORY", "RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
NOT_INHERITED += ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED", "SLURM_NTASKS", "SLURM_PROCID")
NOT_INHERITED += ("SLURM_LOCALID", "SLURM_JOB_NAME")
PREFIXES_NOT_INHERITED = ("TORCHELASTIC_", "SLURM_NTASKS_")
ASK_FOR_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux' prctl


@dataclass(frozen=True)
class Job:
    """A command to run, and the run directory that it fills."""

    name: str
    folder: Path
    overrides: tuple[str, ...]
    module: str = TRAIN
    devices: int = 1  # processes, each with a GPU of its own when `on_gpu`
    on_gpu: bool = False
    after: tuple[str, ...] = ()  # names of jobs that must be finished


class Started(Protocol):
    """A job that was started somewhere."""

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        ...

    def stop(self, number: int) -> None:
        """Send it a signal."""
        ...


class Starter(Protocol):
    """Where jobs are started: this machine, or a cluster."""

    parallel: int  # jobs at a time

    def room_for(self, job: Job) -> bool: ...

    def start(self, job: Job) -> Started: ...


def command(job: Job) -> list[str]:
    """Plain Python, or torchrun for several processes: Lightning's own launcher would start this command line again."""
    words = ["-m", job.module, *job.overrides]
    if job.devices == 1:
        return [sys.executable, *words]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(job.devices)]
    return [sys.executable, *torchrun, *words]


def environment(*, threads: int, cards: Sequence[str] | None = None) -> dict[str, str]:
    """This process's environment without what belongs to it alone. `cards` are the GPUs that the job may see."""
    found = {
        name: value
        for name, value in os.environ.items()
        if name not in NOT_INHERITED and not name.startswith(PREFIXES_NOT_INHERITED)
    }
    found.setdefault("OMP_NUM_THREADS", str(threads))
    found.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SECONDS_TO_SAVE)
    return found if cards is None else found | {"CUDA_VISIBLE_DEVICES": ",".join(cards)}


def processes(devices: Any) -> int:
    """How many processes `trainer.devices` means.

    >>> processes(2), processes("2"), processes([0, 3]), processes("0,3")
    (2, 2, 2, 2)
    """
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    text = str(devices)
    if "," in text:
        return len([number for number in text.split(",") if number.strip()])
    if text in ("auto", "-1"):
        return max(torch.cuda.device_count(), 1)
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"trainer.devices={devices!r}: a number of devices, a list of them, or auto")
    return int(text)


def visible_cards(accelerator: str) -> list[str]:
    """The GPUs that jobs may use, by the names that CUDA_VISIBLE_DEVICES gives them; none for jobs on CPUs."""
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Local:
    """Jobs on this machine: `parallel` at a time, each with as many of the `cards` as it has processes.

    `jobs_per_gpu` jobs share a card, which a small model leaves half idle. `parallel` None is one at a time on CPUs,
    and as many as the GPUs hold.  Raises ConfigError for a job that never fits.
    """

    def __init__(self, *, parallel: int | None = None, cards: Sequence[str] = (), jobs_per_gpu: int = 1) -> None:
        asked = {"jobs_per_gpu": jobs_per_gpu} | ({} if parallel is None else {"parallel": parallel})
        for name, value in asked.items():
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}={value!r}: a whole number of jobs, 1 or more")
        self.parallel = parallel or (len(cards) * jobs_per_gpu or 1)
        self.places = dict.fromkeys(cards, jobs_per_gpu)  # free ones, by card
        self.running: list[LocalProcess] = []

    def room_for(self, job: Job) -> bool:
        if job.on_gpu and job.devices > len(self.places):
            raise ConfigError(f"{job.name}: trainer.devices={job.devices}, and there are {len(self.places)} GPUs here")
        self._sweep_up()
        free = sum(places > 0 for places in self.places.values())
        return len(self.running) < self.parallel and (not job.on_gpu or job.devices <= free)

    def start(self, job: Job) -> Started:
        by_room = sorted(self.places, key=lambda card: -self.places[card])  # each process of a job on another card
        taken = by_room[: job.devices if job.on_gpu else 0]
        for card in taken:
            self.places[card] -= 1
        threads = max(cores() // (self.parallel * job.devices), 1)
        surroundings = environment(threads=threads, cards=taken if job.on_gpu else None)
        process = LocalProcess(job, surroundings, taken)
        self.running.append(process)
        return process

    def _sweep_up(self) -> None:
        for process in [one for one in self.running if one.poll() is not None]:
            self.running.remove(process)
            for card in process.cards:
                self.places[card] += 1


class LocalProcess:
    """A job as a process in a session of its own, so that a Ctrl-C in the terminal comes through the sweep alone."""

    def __init__(self, job: Job, surroundings: dict[str, str], cards: list[str]) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        self.cards = cards
        with (job.folder / OUTPUT).open("ab") as output:
            self.process = subprocess.Popen(
                command(job),
                env=surroundings,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_the_sweep(os.getpid()) if sys.platform == "linux" else None,
            )

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)


def _end_with_the_sweep(parent: int):
    """Run in the new process: when the sweep dies, even by SIGKILL, its jobs are asked to save and end."""
    prctl = ctypes.CDLL(None).prctl  # found before the fork: nothing may be loaded after it

    def ask() -> None:
        prctl(ASK_FOR_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it died between the fork and this
            os._exit(1)

    return ask
