"""What a study says: bands of seeds, and rsum by factor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import NamedTuple

from threeshnet.reports.study_runs import StudyRun

RECALLS = ("R@1", "R@5", "R@10")


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
    groups: dict[str, list[StudyRun]] = {}
    for run in runs:
        groups.setdefault(run.variant, []).append(run)
    return groups


def bands(groups: Mapping[str, Sequence[StudyRun]], of: str = "curve") -> list[Band]:
    """The `curve` (dev rsum) or the `losses` of each variant: least, mean and greatest over the seeds, by epoch."""
    found = []
    for variant, runs in groups.items():
        values: dict[int, list[float]] = {}
        for run in runs:
            for epoch, value in getattr(run, of).items():
                values.setdefault(epoch, []).append(value)
        if values:
            epochs = sorted(values)
            low, middle, high = ([f(values[epoch]) for epoch in epochs] for f in (min, mean, max))
            found.append(Band(variant, epochs, low, middle, high, sum(bool(getattr(run, of)) for run in runs)))
    return found


def scores(groups: Mapping[str, Sequence[StudyRun]]) -> list[Score]:
    """A row each group; the greatest mean rsum is marked, where finished groups differ."""
    rows = [_score(name, runs) for name, runs in groups.items()]
    known = [row.rsum for row in rows if row.rsum is not None]
    greatest = max(known) if len(set(known)) > 1 else None
    return [row._replace(best=row.rsum is not None and row.rsum == greatest) for row in rows]


def by_factor(runs: Sequence[StudyRun]) -> dict[str, list[Score]]:
    """For every factor that is varied, the score of each of its levels over all else."""
    names = list(dict.fromkeys(name for run in runs for name in run.factors))
    found = {}
    for name in names:
        levels: dict[str, list[StudyRun]] = {}
        for run in runs:
            if name in run.factors:
                levels.setdefault(run.factors[name], []).append(run)
        if len(levels) > 1:
            found[name] = scores(levels)
    return found


def best_dev(run: StudyRun) -> float | None:
    """The best dev rsum so far."""
    known = [value for value in (run.progress.get("best_dev_rsum"), *run.curve.values()) if value is not None]
    return max(known) if known else None


def _score(name: str, runs: Sequence[StudyRun]) -> Score:
    finished = [run.metrics for run in runs if run.state == "finished"]
    values = [float(metrics["rsum"]) for metrics in finished]
    dev = [value for run in runs if (value := best_dev(run)) is not None]
    columns = [(side, recall) for side in ("i2t", "t2i") for recall in RECALLS]
    return Score(
        name=name,
        finished=len(values),
        runs=len(runs),
        rsum=mean(values) if values else None,
        spread=stdev(values) if len(values) > 1 else None,
        recalls=tuple(mean(metrics[side][recall] for metrics in finished) for side, recall in columns if finished),
        dev=mean(dev) if dev else None,
        best=False,
    )
