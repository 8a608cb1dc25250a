"""Starts jobs on a cluster through submitit; the sweep stays where it was started, and watches.

hydra-submitit-launcher (1.2.0 of 2022) is not used. It pickles the task function and runs it in one process a task, so
a job of two devices would launch again. It raises at the first failed job, and it knows no finished jobs.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, UncompletedJobError
from submitit.helpers import DelayedSubmission

from threeshnet.errors import ConfigError, one_of
from threeshnet.studies.launch import Job, Started, environment, open_process

EXECUTORS = {"slurm": submitit.SlurmExecutor, "local": submitit.LocalExecutor, "debug": submitit.DebugExecutor}
KILLED = 137  # exit code of a job that ended without a result, as when its node failed


class Work:
    """What runs on the node: the job's command. Before a time limit it saves, and submitit queues it again."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        self.process = open_process(self.job, environment(threads=1))
        return self.process.wait()

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit before a time limit and on pre-emption."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait()
        return DelayedSubmission(Work(self.job))

    def __getstate__(self) -> dict[str, Any]:
        return {"job": self.job, "process": None}


class Cluster:
    """Submits jobs at once, or `parallel` at a time; the cluster decides when each runs. `options` are submitit's.

    Raises ConfigError for an executor that does not exist, or options that it does not take.
    """

    def __init__(self, *, executor: str, folder: Path, options: Mapping[str, Any], parallel: int | None) -> None:
        if executor not in EXECUTORS:
            raise ConfigError(one_of("cluster.executor", executor, EXECUTORS))
        self.parallel = parallel or sys.maxsize
        try:
            self.executor = EXECUTORS[executor](folder=folder)
            self.executor.update_parameters(**options)
        except (RuntimeError, TypeError, NameError, ValueError) as reason:
            raise ConfigError(f"cluster.executor={executor}, cluster.options={dict(options)}: {reason}") from reason
        self.running: list[Submitted] = []

    def room_for(self, job: Job) -> bool:
        self.running = [each for each in self.running if each.poll() is None]
        return len(self.running) < self.parallel

    def start(self, job: Job) -> Started:
        submitted = Submitted(self.executor.submit(Work(job)))
        self.running.append(submitted)
        return submitted


class Submitted:
    """A job in the cluster's queue or on a node."""

    def __init__(self, job: submitit.Job[int]) -> None:
        self.job = job
        self.code: int | None = None

    def poll(self) -> int | None:
        if self.code is None and self.job.done():
            try:
                self.code = int(self.job.result())
            except (FailedJobError, UncompletedJobError):
                self.code = KILLED
        return self.code

    def stop(self, number: int) -> None:
        """Cancels the job; the cluster's own signal lets it save."""
        self.job.cancel()
