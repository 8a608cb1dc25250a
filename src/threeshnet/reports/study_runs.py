"""The runs of a study as their directories show them, finished or not, and their scores by variant and by factor."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import pandas as pd

from threeshnet.errors import DataError
from threeshnet.runs.facts import level_text, variant_name
from threeshnet.runs.find import run_directories
from threeshnet.runs.run import Run

STATES = ("finished", "running", "silent", "interrupted", "failed", "waiting")
SILENT_AFTER = 900.0  # seconds without a sign of a run that says it is running
LARGEST_EPOCH = 1e9  # a damaged log may hold any number
RECALLS = tuple((side, name) for side in ("i2t", "t2i") for name in ("R@1", "R@5", "R@10"))
WHERE_FROM = "make it with: make sweep STUDY=<name>"


@dataclass(frozen=True)
class StudyRun:
    """One run directory; what a run has not reached yet is empty or None."""

    name: str
    folder: Path
    state: str
    factors: Mapping[str, str]  # without the seed
    seed: int | None
    job: Mapping[str, Any] = field(default_factory=dict)
    progress: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    curve: Mapping[int, float] = field(default_factory=dict)  # dev rsum by epoch, counted from 1
    losses: Mapping[int, float] = field(default_factory=dict)  # mean training loss by epoch, counted from 1
    inspection: Mapping[str, Any] = field(default_factory=dict)
    pictures: Sequence[Path] = ()
    last_lines: Sequence[str] = ()
    quiet_for: float = 0.0  # seconds since its last sign

    @property
    def variant(self) -> str:
        """Its factors as one name: runs that share it differ by their seed alone.

        >>> StudyRun("a", Path("a"), "running", {"activation": "sigmoid", "pooling": "mean"}, 0).variant
        'activation=sigmoid · pooling=mean'
        """
        return variant_name(self.factors, str(self.job.get("experiment") or "all runs"))


def read_study(folder: Path, *, now: float | None = None) -> list[StudyRun]:
    """Every run directory in `folder`, by name.  Raises DataError when there is none."""
    runs = [read_run(run, now=time.time() if now is None else now) for run in run_directories(Path(folder))]
    if not runs:
        raise DataError(
            f"out={folder}: no run directory (one with job.json, progress.json or config.yaml); {WHERE_FROM}"
        )
    return runs


def read_run(run: Run, *, now: float) -> StudyRun:
    """One run directory. A file that is missing, torn (the run may be writing it) or malformed counts as missing."""
    job, metrics = run.job, run.find_metrics()
    progress = run.progress.content()
    quiet_for = max(now - float(progress.get("updated", now)), 0.0)
    state = state_of(progress, finished="rsum" in metrics, quiet_for=quiet_for)
    curve, losses = curves(run.log)
    return StudyRun(
        name=run.folder.name,
        folder=run.folder,
        state=state,
        factors={name: level_text(level) for name, level in job.factors.items() if name != "seed"},
        seed=job.seed,
        job=job.content(),
        progress=progress,
        metrics=metrics,
        curve=curve,
        losses=losses,
        inspection=run.inspection,
        pictures=run.pictures,
        last_lines=run.last_lines if state in ("failed", "interrupted") else (),
        quiet_for=quiet_for,
    )


def state_of(progress: Mapping[str, Any], *, finished: bool, quiet_for: float) -> str:
    """One of STATES: the recorded state, or `silent` without a recent sign of life (killed, or hung).

    >>> state_of({"state": "running"}, finished=False, quiet_for=5), state_of({}, finished=False, quiet_for=0)
    ('running', 'waiting')
    >>> state_of({"state": "running"}, finished=False, quiet_for=5_000)
    'silent'
    """
    if finished:
        return "finished"
    state = str(progress.get("state", "waiting"))
    if state == "finished":  # it trained, and its score is not written yet
        state = "running"
    if state not in STATES:
        return "waiting"
    return "silent" if state == "running" and quiet_for > SILENT_AFTER else state


def curves(file: Path) -> tuple[dict[int, float], dict[int, float]]:
    """Dev rsum and mean training loss by epoch, counted from 1, of a run's metrics.csv; empty without one.

    The last row of a file that is being written may be torn.
    """
    columns = ["epoch", "dev/rsum", "train/loss"]
    try:
        log: Any = pd.read_csv(file, usecols=lambda name: name in columns, on_bad_lines="skip")
    except (OSError, ValueError):
        return {}, {}
    log = log.reindex(columns=columns).apply(pd.to_numeric, errors="coerce")
    log = log[log["epoch"].between(0, LARGEST_EPOCH)].replace([math.inf, -math.inf], math.nan)
    log["epoch"] = log["epoch"].astype(int) + 1
    by_epoch = log.groupby("epoch").agg({"dev/rsum": "last", "train/loss": "mean"})
    rsum, losses = ({int(e): v for e, v in by_epoch[name].dropna().items()} for name in ("dev/rsum", "train/loss"))
    return rsum, losses


class Band(NamedTuple):
    """The curves of one variant over its seeds; an epoch counts as far as runs have come to it."""

    variant: str
    epochs: list[int]
    low: list[float]
    middle: list[float]
    high: list[float]
    runs: int


class Score(NamedTuple):
    """Mean and spread of the finished runs of a variant or of one level of a factor."""

    name: str
    finished: int
    runs: int
    rsum: float | None  # mean
    spread: float | None  # sample standard deviation, None for one run
    recalls: tuple[float, ...]  # i2t R@1 R@5 R@10, t2i R@1 R@5 R@10, means
    dev: float | None  # mean of the best dev rsum so far, of all runs that have one
    best: bool


def by_variant(runs: Sequence[StudyRun]) -> dict[str, list[StudyRun]]:
    """Runs that differ by their seed alone, in the order of their first."""
    return {name: [run for run in runs if run.variant == name] for name in dict.fromkeys(run.variant for run in runs)}


def bands(groups: Mapping[str, Sequence[StudyRun]], of: str = "curve") -> list[Band]:
    """The `curve` (dev rsum) or the `losses` of each variant: least, mean and greatest over the seeds, by epoch."""
    result = []
    for variant, runs in groups.items():
        curves = [curve for run in runs if (curve := getattr(run, of))]
        if curves:
            epochs = pd.DataFrame(curves).sort_index(axis="columns").agg(["min", "mean", "max"])
            low, middle, high = epochs.to_numpy().tolist()
            result.append(Band(variant, [int(epoch) for epoch in epochs], low, middle, high, len(curves)))
    return result


def scores(groups: Mapping[str, Sequence[StudyRun]]) -> list[Score]:
    """A row each group; the greatest mean rsum is marked, where finished groups differ."""
    rows = [_score(name, runs) for name, runs in groups.items()]
    values = [row.rsum for row in rows if row.rsum is not None]
    greatest = max(values) if len(set(values)) > 1 else None
    return [row._replace(best=row.rsum is not None and row.rsum == greatest) for row in rows]


def by_factor(runs: Sequence[StudyRun]) -> dict[str, list[Score]]:
    """For every factor that is varied, the score of each of its levels over all else."""
    by_level: dict[str, dict[str, list[StudyRun]]] = {}
    for run in runs:
        for name, level in run.factors.items():
            by_level.setdefault(name, {}).setdefault(level, []).append(run)
    return {name: scores(levels) for name, levels in by_level.items() if len(levels) > 1}


def best_dev(run: StudyRun) -> float | None:
    """The best dev rsum so far."""
    values = [value for value in (run.progress.get("best_dev_rsum"), *run.curve.values()) if value is not None]
    return max(values) if values else None


def _score(name: str, runs: Sequence[StudyRun]) -> Score:
    finished = [run.metrics for run in runs if run.state == "finished"]
    values = [float(metrics["rsum"]) for metrics in finished]
    dev = [value for run in runs if (value := best_dev(run)) is not None]
    return Score(
        name=name,
        finished=len(values),
        runs=len(runs),
        rsum=mean(values) if values else None,
        spread=stdev(values) if len(values) > 1 else None,
        recalls=tuple(mean(metrics[side][recall] for metrics in finished) for side, recall in RECALLS if finished),
        dev=mean(dev) if dev else None,
        best=False,
    )
