"""Two models on the same photos and captions: what differs, as a table for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from threeshnet.errors import shortened
from threeshnet.evaluation.evaluations import SAME, Evaluation, value_of
from threeshnet.metrics.comparisons import Difference, compare
from threeshnet.metrics.intervals import DRAWS, LEVEL
from threeshnet.metrics.protocols import folds_of

MAY_DIFFER = ("seed", "checkpoint", "scored_views", "correction", "bank", "perturb")  # and is named
REMARK = (
    "Interval and p are of other test photos, drawn with all their captions, for these two models as they are. "
    "They say nothing about other seeds: two trainings of one recipe may differ as much."
)


class Row(NamedTuple):
    """A recall, or rsum, of both."""

    name: str  # i2t R@1, …, rsum
    one: float
    other: float
    apart: Difference  # one minus the other


def rows_of(one: Evaluation, other: Evaluation) -> list[Row]:
    """The six recalls and rsum of two evaluations of the same items."""
    folds = folds_of(one.metrics["protocol"])
    found = compare(one.items.ranks, other.items.ranks, one.items.owner, folds=folds)
    return [
        Row(name, value_of(one.metrics, name), value_of(other.metrics, name), apart) for name, apart in found.items()
    ]


def content_of(one: Evaluation, other: Evaluation, rows: Sequence[Row]) -> dict[str, Any]:
    """The comparison as it stands in comparison.json."""
    return {
        **{name: one.metrics[name] for name in SAME},
        "images": len(one.items.ranks.i2t),
        "captions": len(one.items.ranks.t2i),
        "one": _about(one),
        "other": _about(other),
        "recalls": {
            row.name: {
                "one": row.one,
                "other": row.other,
                "difference": row.apart.value,
                "interval": list(row.apart.interval),
                "p": row.apart.p,
                "verdict": row.apart.verdict,
            }
            for row in rows
        },
        "level": LEVEL,
        "draws": DRAWS,
        "unit": "image",
        "remark": REMARK,
    }


def table_of(one: Evaluation, other: Evaluation, rows: Sequence[Row]) -> Table:
    """A row a recall; above them the data and the two models, below them what the interval does not say."""
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
    for row in rows:
        values = f"{row.one:.1f}", f"{row.other:.1f}", f"{row.apart.value:+.1f}"
        low, high = row.apart.interval
        table.add_row(row.name, *values, f"{low:+.1f} to {high:+.1f}", f"{row.apart.p:.4f}", row.apart.verdict)
    return table


def label(evaluation: Evaluation) -> str:
    """The folder of an evaluation, and what it did that another need not do."""
    metrics = evaluation.metrics
    parts = [str(evaluation.folder)]
    if metrics.get("seed") is not None:
        parts.append(f"seed {metrics['seed']}")
    if metrics.get("scored_views"):
        parts.append(f"mean of {1 + len(metrics['scored_views'])} views")
    if metrics.get("correction"):
        parts.append(f"corrected: {metrics['correction']} by {metrics.get('bank')}")
    if metrics.get("perturb"):
        parts.append(f"perturbed: {metrics['perturb']}")
    return shortened(", ".join(parts), 300)


def _about(evaluation: Evaluation) -> dict[str, Any]:
    found = {name: evaluation.metrics[name] for name in MAY_DIFFER if evaluation.metrics.get(name) is not None}
    return {"folder": str(evaluation.folder), **found}
