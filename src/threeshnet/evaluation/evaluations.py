"""What an evaluation left, read again; and whether two of them are of the same photos and captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from threeshnet.errors import DataError, Problems, shortened
from threeshnet.metrics.intervals import NAMES
from threeshnet.metrics.protocols import Scored, recall_by
from threeshnet.metrics.rank_files import RankedItems
from threeshnet.runs.records import Metrics, read_record
from threeshnet.runs.run import Run

SAME = ("data", "fingerprint", "split", "protocol")  # of both evaluations
ROUNDING = 1e-9  # the same counts, divided in another order
AGAIN = "make evaluate CKPT=<file> SHARDS=<folder> SPLIT={} PROTOCOL={} OUT=<new folder>"
WAY_OUT = (
    "Models are compared on the same photos and captions in the same order, scored in the same way. Shards that were "
    "made by another extractor have another fingerprint too."
)


class Comparable(Metrics):
    """metrics.json of an evaluation that can be compared with another."""

    data: str
    fingerprint: str
    split: str
    protocol: str


class Evaluation(NamedTuple):
    """What an evaluation left."""

    folder: Path
    metrics: Mapping[str, Any]
    items: RankedItems


def read_pair(one: Path, other: Path) -> tuple[Evaluation, Evaluation]:
    """Both evaluations.  Raises DataError with all that is missing, or that makes them other than of the same items."""
    problems = Problems(f"comparing {one} with {other}")
    found = []
    for folder in (one, other):
        try:
            found.append(read_evaluation(folder))
        except DataError as error:
            problems.add(str(error))
    if len(found) == 2:
        problems.extend(differences(*found))
    problems.raise_as(DataError, WAY_OUT)
    return found[0], found[1]


def read_evaluation(folder: Path) -> Evaluation:
    """The scores and ranks in a folder.  Raises DataError where they are missing, damaged or of two evaluations."""
    run = Run(folder)
    if not run.is_finished:
        raise DataError(f"{folder} has no {run.metrics_file.name}; evaluate: {command({})}")
    _, metrics = read_record(run.metrics_file, Comparable, f"evaluate again: {command({})}")
    ranks = run.ranks_file
    if not ranks.is_file():
        raise DataError(
            f"{folder} has no {ranks.name}, which is newer than its scores; evaluate again: {command(metrics)}"
        )
    items = run.ranks
    if apart := other_recalls(metrics, items):
        raise DataError(f"{ranks} is not of the {run.metrics_file.name} beside it: {apart}; again: {command(metrics)}")
    return Evaluation(folder, metrics, items)


def command(metrics: Mapping[str, Any]) -> str:
    """The command that evaluates so, as far as the metrics say it."""
    return AGAIN.format(metrics.get("split", "<split>"), metrics.get("protocol", "<protocol>"))


def value_of(recalls: Mapping[str, Any], name: str) -> float:
    """
    >>> value_of({"i2t": {"R@1": 20.0}, "rsum": 90.0}, "i2t R@1")
    20.0
    """
    side, _, number = name.partition(" ")
    return recalls[side][number] if number else recalls[side]


def other_recalls(metrics: Mapping[str, Any], items: RankedItems) -> str:
    """A recall in metrics.json that the ranks do not give; empty where all agree."""
    scored = Scored(metrics["data"], metrics["split"], len(items.ranks.i2t), items.owner)
    found = recall_by(metrics["protocol"], items.ranks, scored)
    for name in (*NAMES, "rsum"):
        written, given = value_of(metrics, name), value_of(found, name)
        if abs(written - given) > ROUNDING:
            return f"{name} is {written:.4f} there and {given:.4f} by the ranks"
    return ""


def differences(one: Evaluation, other: Evaluation) -> Iterator[str]:
    """What makes two evaluations other than of the same items, or scored in another way."""
    for name in SAME:
        if one.metrics[name] != other.metrics[name]:
            first, second = (shortened(str(side.metrics[name]), 200) for side in (one, other))
            yield f"{name}: {first} and {second}"
    if one.items.image_ids != other.items.image_ids:
        yield f"image ids: {first_apart(one.items.image_ids, other.items.image_ids)}"
    if not torch.equal(one.items.owner, other.items.owner):
        yield f"images of the captions: {first_apart(one.items.owner.tolist(), other.items.owner.tolist())}"


def first_apart(one: Sequence[Any], other: Sequence[Any]) -> str:
    """Where two lists that differ do so first.

    >>> first_apart(["a", "b"], ["a", "c"]), first_apart([0], [0, 1])
    ("number 1 is 'b' and 'c'", '1 and 2 of them')
    """
    if len(one) != len(other):
        return f"{len(one):,} and {len(other):,} of them"
    row = next(row for row, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
    return f"number {row} is {shortened(repr(one[row]), 200)} and {shortened(repr(other[row]), 200)}"
