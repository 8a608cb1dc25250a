"""The runs of a study as their directories show them, finished or not."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threeshnet.errors import DataError
from threeshnet.reports.study_forms import INSPECTION, JOB, METRICS, PROGRESS, fits

STATES = ("finished", "running", "silent", "interrupted", "failed", "waiting")
SILENT_AFTER = 900.0  # seconds without a sign of a run that says it is running
LAST_LINES = 12  # of the output of a run that failed
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


def variant_name(factors: Mapping[str, Any] | None, otherwise: str) -> str:
    """Levels of factors as one name, the seed left out; `otherwise` where nothing is varied.

    >>> variant_name({"activation": "sigmoid", "parts": ["local", "fused"], "seed": 1}, "")
    'activation=sigmoid · parts=[local,fused]'
    """
    levels = {name: level for name, level in (factors or {}).items() if name != "seed"}
    return " · ".join(f"{name}={_text(level)}" for name, level in levels.items()) or otherwise


def read_study(folder: Path, *, now: float | None = None) -> list[StudyRun]:
    """Every run directory in `folder`, by name.  Raises DataError when there is none."""
    found = [read_run(below, now=time.time() if now is None else now) for below in _run_directories(folder)]
    if not found:
        raise DataError(f"{folder}: no run directory (one with job.json, progress.json or config.yaml); {WHERE_FROM}")
    return found


def read_run(folder: Path, *, now: float) -> StudyRun:
    """One run directory. A file that is missing, torn (the run may be writing it) or strange counts as not there."""
    job, progress = _json(folder / "job.json", JOB), _json(folder / "progress.json", PROGRESS)
    metrics = _json(folder / "metrics.json", METRICS)
    factors = {str(name): _text(level) for name, level in (job.get("factors") or {}).items() if name != "seed"}
    quiet_for = max(now - float(progress.get("updated", now)), 0.0)
    state = state_of(progress, finished="rsum" in metrics, quiet_for=quiet_for)
    curve, losses = curves(folder / "log" / "metrics.csv")
    return StudyRun(
        name=folder.name,
        folder=folder,
        state=state,
        factors=factors,
        seed=job.get("seed"),
        job=job,
        progress=progress,
        metrics=metrics,
        curve=curve,
        losses=losses,
        inspection=_json(folder / "inspection.json", INSPECTION),
        pictures=sorted((folder / "highlights").glob("*.png")),
        last_lines=_tail(folder / "output.log") if state in ("failed", "interrupted") else (),
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


def _run_directories(folder: Path) -> Iterator[Path]:
    marks = ("job.json", "progress.json", "config.yaml")
    below = sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []
    yield from (one for one in below if one.is_dir() and any((one / mark).is_file() for mark in marks))


def _json(file: Path, form: Any) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if fits(content, form) else {}


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


def _tail(file: Path) -> list[str]:
    try:
        with file.open("rb") as opened:
            opened.seek(max(file.stat().st_size - 8_192, 0))
            lines = opened.read().decode("utf-8", errors="replace").replace("\r", "\n").splitlines()
    except OSError:
        return []
    return [line for line in lines if line.strip()][-LAST_LINES:]


def _text(level: Any) -> str:
    if isinstance(level, list):
        return f"[{','.join(map(str, level))}]"
    return "none" if level is None else str(level)
