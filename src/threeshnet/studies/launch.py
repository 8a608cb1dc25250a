"""Starts jobs on this machine: each a process with its own command line, environment, CPU threads and GPUs.

submitit's LocalExecutor (1.5.4) was tried here and not taken. It starts all jobs at once and gives each the same first
GPUs. A job starts 2.2 s later. A cancelled job has no time to save, and the jobs of a killed sweep run on. On a cluster
submitit does the work (cluster.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from threeshnet.errors import ConfigError
from threeshnet.processes import SHARED_OUT, ends_with
from threeshnet.runs.run import Run
from threeshnet.threads import cores, set_threads

SECONDS_TO_SAVE = "120"  # that torchrun leaves to its processes after a signal
# Variables of an outer run, torchrun or batch job: a job that inherits them would take itself for a part of it.
NOT_INHERITED = (SHARED_OUT, "RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
NOT_INHERITED += ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED", "SLURM_NTASKS", "SLURM_PROCID")
NOT_INHERITED += ("SLURM_LOCALID", "SLURM_JOB_NAME")
PREFIXES_NOT_INHERITED = ("TORCHELASTIC_", "SLURM_NTASKS_")


@dataclass(frozen=True)
class Job:
    """A command, and the run directory that it fills."""

    name: str
    folder: Path
    words: tuple[str, ...]  # after `python -m`
    devices: int = 1  # processes, each with its own GPU when `on_gpu`
    on_gpu: bool = False
    after: tuple[str, ...] = ()  # names of jobs that must be finished first


class Started(Protocol):
    """A job that was started."""

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        ...

    def stop(self, number: int) -> None:
        """Sends it a signal."""
        ...


class Starter(Protocol):
    """Where jobs are started: this machine, or a cluster."""

    parallel: int  # jobs at a time

    def room_for(self, job: Job) -> bool: ...

    def start(self, job: Job) -> Started: ...


def command(job: Job) -> list[str]:
    """Plain Python, or torchrun for several processes: Lightning's own launcher would repeat the sweep's command."""
    if job.devices == 1:
        return [sys.executable, "-m", *job.words]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(job.devices)]
    return [sys.executable, *torchrun, "-m", *job.words]


def environment(*, threads: int, gpus: Sequence[str] | None = None) -> dict[str, str]:
    """This process's environment without its own role in a run. `gpus` are those that the job may see."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if name not in NOT_INHERITED and not name.startswith(PREFIXES_NOT_INHERITED)
    }
    set_threads(variables, threads)
    variables.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SECONDS_TO_SAVE)
    return variables if gpus is None else variables | {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}


def open_process(job: Job, variables: dict[str, str], **more: Any) -> subprocess.Popen[bytes]:
    """Starts the job's command, which ends with this process; its output is appended to the run's output."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with Run(job.folder).output.open("ab") as output:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        before = ends_with(os.getpid())
        process: Any = subprocess.Popen(command(job), env=variables, preexec_fn=before, **streams | more)
    return process


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


def visible_gpus(accelerator: str) -> list[str]:
    """The GPUs that jobs may use, as CUDA_VISIBLE_DEVICES names them; none for jobs on CPUs."""
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


class Local:
    """This machine: `parallel` jobs at a time, each with as many of the `gpus` as it has processes.

    `jobs_per_gpu` jobs share a GPU, which a small model leaves half idle. `parallel` None means one job on CPUs, and as
    many as the GPUs hold.  Raises ConfigError for numbers below 1, and for a job that never fits.
    """

    def __init__(self, *, parallel: int | None = None, gpus: Sequence[str] = (), jobs_per_gpu: int = 1) -> None:
        for name, value in {"jobs_per_gpu": jobs_per_gpu, "parallel": 1 if parallel is None else parallel}.items():
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}={value!r}: a whole number of jobs, 1 or more")
        self.parallel = parallel or (len(gpus) * jobs_per_gpu or 1)
        self.free = dict.fromkeys(gpus, jobs_per_gpu)  # slots by GPU
        self.running: list[LocalProcess] = []

    def room_for(self, job: Job) -> bool:
        if job.on_gpu and job.devices > len(self.free):
            raise ConfigError(f"{job.name}: trainer.devices={job.devices}, and there are {len(self.free)} GPUs here")
        for process in [each for each in self.running if each.poll() is not None]:
            self.running.remove(process)
            for gpu in process.gpus:
                self.free[gpu] += 1
        free = sum(slots > 0 for slots in self.free.values())
        return len(self.running) < self.parallel and (not job.on_gpu or job.devices <= free)

    def start(self, job: Job) -> Started:
        emptiest = sorted(self.free, key=lambda gpu: -self.free[gpu])  # the processes of a job take different GPUs
        gpus = emptiest[: job.devices if job.on_gpu else 0]
        for gpu in gpus:
            self.free[gpu] -= 1
        threads = cores() // (self.parallel * job.devices)
        process = LocalProcess(job, environment(threads=threads, gpus=gpus if job.on_gpu else None), gpus)
        self.running.append(process)
        return process


class LocalProcess:
    """A job in a session of its own: a Ctrl-C in the terminal reaches it through the sweep alone."""

    def __init__(self, job: Job, variables: dict[str, str], gpus: Sequence[str]) -> None:
        self.gpus = gpus
        self.process = open_process(job, variables, start_new_session=True)

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
