"""The runs of a study as their directories show them, finished or not."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threeshnet.errors import DataError
from threeshnet.runs.facts import level_text, variant_name
from threeshnet.runs.find import run_directories
from threeshnet.runs.run import Run

STATES = ("finished", "running", "silent", "interrupted", "failed", "waiting")
SILENT_AFTER = 900.0  # seconds without a sign of a run that says it is running
WHERE_FROM = "make it with: make sweep STUDY=<name>"


@dataclass(frozen=True)
class StudyRun:
    """One run directory; what a run has not come to is empty or None."""

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
    found = [read_run(run, now=time.time() if now is None else now) for run in run_directories(Path(folder))]
    if not found:
        raise DataError(f"{folder}: no run directory (one with job.json, progress.json or config.yaml); {WHERE_FROM}")
    return found


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
    """One of STATES: what the run says of itself, but `silent` when it says nothing any more (killed, or hung).

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
    """Dev rsum and mean training loss by epoch, counted from 1, of a run's metrics.csv; empty without one."""
    rsum: dict[int, float] = {}
    losses: dict[int, list[float]] = {}
    for row in _rows(file):
        epoch = _number(row.get("epoch"))
        if epoch is None:
            continue
        if (value := _number(row.get("dev/rsum"))) is not None:
            rsum[int(epoch) + 1] = value
        if (value := _number(row.get("train/loss"))) is not None:
            losses.setdefault(int(epoch) + 1, []).append(value)
    return rsum, {epoch: sum(values) / len(values) for epoch, values in losses.items()}


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            return list(csv.DictReader(opened))
    except (OSError, csv.Error, UnicodeDecodeError):
        return []


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:  # the last row of a file that is being written
        return None
    return value if math.isfinite(value) else None
