"""Hydra's multirun with every job as a process of its own: one by plain Python, several devices by torchrun.

Lightning starts its second process by this process's own command line, which with `-m` is the whole multirun once more;
and jobs that share a process share its loggers and random states. Hydra asks for launchers in this namespace package.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


class ProcessLauncher(Launcher):
    """`parallel` jobs at a time; null is one on CPUs, and as many as the GPUs hold, `jobs_per_gpu` on each."""

    def __init__(self, parallel: int | None = None, jobs_per_gpu: int = 1) -> None:
        self.parallel, self.jobs_per_gpu = parallel, jobs_per_gpu

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Raises JobsFailed when one or more failed, after all have ended."""
        from threeshnet.studies.multirun import run_multirun  # Hydra imports plugins at the start of every command

        loaded = [self._load(overrides, initial_job_idx + n) for n, overrides in enumerate(job_overrides)]
        plain: list[Any] = [OmegaConf.to_container(config, resolve=False) for config in loaded]
        folders = [Path(str(c.out or Path(c.hydra.sweep.dir) / str(c.hydra.sweep.subdir))).absolute() for c in loaded]
        results = run_multirun(
            program=("threeshnet", str(self.config.hydra.job.config_name)),
            overrides=[each["hydra"]["overrides"]["task"] for each in plain],
            folders=folders,
            devices=[config.trainer.devices for config in loaded],
            accelerators=[str(config.trainer.accelerator) for config in loaded],
            parallel=self.parallel,
            jobs_per_gpu=self.jobs_per_gpu,
        )
        return [self._returned(list(o), c, r) for o, c, r in zip(job_overrides, loaded, results, strict=True)]

    def _load(self, overrides: Sequence[str], number: int) -> DictConfig:
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        return config

    def _returned(self, overrides: list[str], config: DictConfig, result: float | None) -> JobReturn:
        returned = JobReturn(overrides=overrides, task_name=str(config.hydra.job.name), status=JobStatus.COMPLETED)
        returned.return_value = result
        return returned
