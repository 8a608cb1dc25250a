"""Two models on the same photos and captions: what differs, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from threeshnet.errors import DataError, Problems, shortened
from threeshnet.evaluation.table import changes
from threeshnet.files import check_writable, write_json
from threeshnet.installation import current_commit
from threeshnet.metrics.comparisons import compare
from threeshnet.metrics.intervals import DRAWS, LEVEL, NAMES
from threeshnet.metrics.protocols import Scored, folds_of, recall_by
from threeshnet.metrics.rank_files import RankedItems
from threeshnet.runs.records import Metrics, read_record
from threeshnet.runs.run import Run
from threeshnet.settings import CompareSettings

SAME = ("data", "fingerprint", "split", "protocol")  # of both evaluations
ROUNDING = 1e-9  # the same counts, divided in another order
AGAIN = "make evaluate CKPT=<file> SHARDS=<folder> SPLIT={} PROTOCOL={} OUT=<new folder>"
WAY_OUT = (
    "Models are compared on the same photos and captions in the same order, scored in the same way. Shards of "
    "another extractor have another fingerprint too."
)
MAY_DIFFER = ("seed", "checkpoint", "scored_views", "correction", "bank", "encoding_precision", "perturb")  # named
Compared = Mapping[str, Mapping[str, Any]]  # i2t R@1, …, rsum: of both evaluations, and what differs
REMARK = (
    "Interval and p are of other test photos, drawn with all their captions, for these two models as they are. "
    "They say nothing about other seeds: two trainings of one recipe may differ as much."
)


def compare_evaluations(settings: CompareSettings) -> None:
    """Print what differs between two evaluations, and write it as JSON into the folder `out`, if any."""
    if settings.out:
        check_writable("out", settings.out)
    pair = read_pair(Path(settings.one), Path(settings.other))
    recalls = recalls_of(*pair)
    console = Console()
    console.print(table_of(*pair, recalls))
    if settings.out:
        file = Path(settings.out) / "comparison.json"
        write_json(file, content_of(*pair, recalls) | {"commit": current_commit()})
        console.print(str(file), markup=False, highlight=False, soft_wrap=True)


class Comparable(Metrics):
    """metrics.json of an evaluation that can be compared with another."""

    data: str
    fingerprint: str
    split: str
    protocol: str


class Evaluation(NamedTuple):
    folder: Path
    metrics: Mapping[str, Any]
    items: RankedItems


def read_pair(one: Path, other: Path) -> tuple[Evaluation, Evaluation]:
    """Both evaluations.  Raises DataError with everything that is missing or that makes them incomparable."""
    problems = Problems(f"comparing one={one} with other={other}")
    evaluations = []
    for folder in (one, other):
        try:
            evaluations.append(read_evaluation(folder))
        except DataError as error:
            problems.add(str(error))
    if len(evaluations) == 2:
        problems.extend(differences(*evaluations))
    problems.raise_as(DataError, WAY_OUT)
    return evaluations[0], evaluations[1]


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
    """The command that makes such an evaluation, as far as the metrics name it."""
    return AGAIN.format(metrics.get("split", "<split>"), metrics.get("protocol", "<protocol>"))


def value_of(recalls: Mapping[str, Any], name: str) -> float:
    """
    >>> value_of({"i2t": {"R@1": 20.0}, "rsum": 90.0}, "i2t R@1")
    20.0
    """
    side, _, number = name.partition(" ")
    return recalls[side][number] if number else recalls[side]


def other_recalls(metrics: Mapping[str, Any], items: RankedItems) -> str:
    """A recall in metrics.json that differs from that of the ranks; empty where all agree."""
    scored = Scored(metrics["data"], metrics["split"], len(items.ranks.i2t), items.owner)
    recalls = recall_by(metrics["protocol"], items.ranks, scored)
    for name in (*NAMES, "rsum"):
        written, given = value_of(metrics, name), value_of(recalls, name)
        if abs(written - given) > ROUNDING:
            return f"{name} is {written:.4f} there and {given:.4f} by the ranks"
    return ""


def differences(one: Evaluation, other: Evaluation) -> Iterator[str]:
    """The reasons why two evaluations cannot be compared: other items, or another protocol."""
    for name in SAME:
        if one.metrics[name] != other.metrics[name]:
            first, second = (shortened(str(side.metrics[name]), 200) for side in (one, other))
            yield f"{name}: {first} and {second}"
    if one.items.image_ids != other.items.image_ids:
        yield f"image ids: {first_apart(one.items.image_ids, other.items.image_ids)}"
    if not torch.equal(one.items.owner, other.items.owner):
        yield f"images of the captions: {first_apart(one.items.owner.tolist(), other.items.owner.tolist())}"


def first_apart(one: Sequence[Any], other: Sequence[Any]) -> str:
    """The first difference of two lists.

    >>> first_apart(["a", "b"], ["a", "c"]), first_apart([0], [0, 1])
    ("number 1 is 'b' and 'c'", '1 and 2 of them')
    """
    if len(one) != len(other):
        return f"{len(one):,} and {len(other):,} of them"
    row = next(row for row, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
    return f"number {row} is {shortened(repr(one[row]), 200)} and {shortened(repr(other[row]), 200)}"


def recalls_of(one: Evaluation, other: Evaluation) -> Compared:
    """The six recalls and rsum of two evaluations of the same items; the difference is one minus other."""
    folds = folds_of(one.metrics["protocol"])
    compared = compare(one.items.ranks, other.items.ranks, one.items.owner, folds=folds)
    return {
        name: {
            "one": value_of(one.metrics, name),
            "other": value_of(other.metrics, name),
            "difference": apart.value,
            "interval": list(apart.interval),
            "p": apart.p,
            "verdict": apart.verdict,
        }
        for name, apart in compared.items()
    }


def content_of(one: Evaluation, other: Evaluation, recalls: Compared) -> dict[str, Any]:
    return {
        **{name: one.metrics[name] for name in SAME},
        "images": len(one.items.ranks.i2t),
        "captions": len(one.items.ranks.t2i),
        "one": _facts(one),
        "other": _facts(other),
        "recalls": recalls,
        "level": LEVEL,
        "draws": DRAWS,
        "unit": "image",
        "remark": REMARK,
    }


def table_of(one: Evaluation, other: Evaluation, recalls: Compared) -> Table:
    """One row for each recall, with the data and the two models above and a remark on the intervals below."""
    facts = one.metrics
    counts = f"{len(one.items.ranks.i2t):,} images, {len(one.items.ranks.t2i):,} captions"
    title = f"{facts['data']} · split {facts['split']} · protocol {facts['protocol']}\n{counts}"
    named = [f"{name}: {label(evaluation)}" for name, evaluation in (("one", one), ("other", other))]
    # Text: a folder's name may hold what rich would take for markup. The padding lets a row fit 80 columns.
    heading = Text("\n".join([title, *named]))
    table = Table(title=heading, caption=f"Apart: one minus other. {REMARK}", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("")
    for column in ("one", "other", "apart", f"{LEVEL:.0%} interval", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict")
    for name, row in recalls.items():
        values = f"{row['one']:.1f}", f"{row['other']:.1f}", f"{row['difference']:+.1f}"
        low, high = row["interval"]
        table.add_row(name, *values, f"{low:+.1f} to {high:+.1f}", f"{row['p']:.4f}", row["verdict"])
    return table


def label(evaluation: Evaluation) -> str:
    """The folder of an evaluation, with its seed, views, correction and perturbation."""
    metrics = evaluation.metrics
    seed = [] if metrics.get("seed") is None else [f"seed {metrics['seed']}"]
    return shortened(", ".join([str(evaluation.folder), *seed, *changes(metrics)]), 300)


def _facts(evaluation: Evaluation) -> dict[str, Any]:
    facts = {name: evaluation.metrics[name] for name in MAY_DIFFER if evaluation.metrics.get(name) is not None}
    return {"folder": str(evaluation.folder), **facts}
