"""The table that ends a run: what was scored, how, and the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

DIRECTIONS = {"i2t": "image → text", "t2i": "text → image"}
RECALLS = ("R@1", "R@5", "R@10")


def results_table(metrics: Mapping[str, Any], *, seconds: float | None = None) -> Table:
    """`metrics` in the form of `metrics.json`, as a table of both directions with the protocol and counts above it."""
    counts = f"{metrics['images']:,} images, {metrics['captions']:,} captions"
    table = Table(
        title=f"{metrics['data']} · split {metrics['split']} · protocol {named_protocol(metrics)}\n{counts}",
        caption=_caption(metrics, seconds),
    )
    table.add_column("direction")
    for name in (*RECALLS, "median rank", "mean rank"):
        table.add_column(name, justify="right")
    for side, label in DIRECTIONS.items():
        scores = metrics[side]
        ranks = f"{scores['median_rank']:.1f}", f"{scores['mean_rank']:.1f}"
        table.add_row(label, *(_recall(metrics, side, name) for name in RECALLS), *ranks)
    return table


def named_protocol(metrics: Mapping[str, Any]) -> str:
    """The protocol's name and `changes`.

    >>> named_protocol({"protocol": "full", "correction": "csls", "bank": "train"})
    'full, csls by train'
    >>> named_protocol({"protocol": "full", "scored_views": ["a_view1", "a_view2"]})
    'full, mean of 3 views'
    >>> named_protocol({"protocol": "full", "perturb": "shuffle_map"})
    'full, perturbed: shuffle_map'
    """
    return ", ".join([metrics["protocol"], *changes(metrics)])


def changes(metrics: Mapping[str, Any]) -> list[str]:
    """How images were seen, what corrects the recalls, a lower precision, and what was changed on purpose."""
    parts = []
    if metrics.get("scored_views"):
        parts.append(f"mean of {1 + len(metrics['scored_views'])} views")
    if metrics.get("correction"):
        parts.append(f"{metrics['correction']} by {metrics['bank']}")
    if metrics.get("encoding_precision"):
        parts.append(f"encoded in {metrics['encoding_precision']}")
    if metrics.get("perturb"):
        parts.append(f"perturbed: {metrics['perturb']}")
    return parts


def print_results(metrics: Mapping[str, Any], *, seconds: float | None = None, console: Console | None = None) -> None:
    """Show the table; `seconds` is the time of the whole command."""
    (console or Console()).print(results_table(metrics, seconds=seconds))


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(7.25), duration(75), duration(3_660)
    ('7.2 s', '1 min 15 s', '1 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _recall(metrics: Mapping[str, Any], side: str, name: str) -> str:
    """The recall, with half the width of its interval where there is one; metrics.json has the ends."""
    value = f"{metrics[side][name]:.1f}"
    return value + (_half(metrics["intervals"][side][name]) if "intervals" in metrics else "")


def _half(interval: Sequence[float]) -> str:
    low, high = interval
    return f" ±{(high - low) / 2:.1f}"


def _caption(metrics: Mapping[str, Any], seconds: float | None) -> str:
    parts = [f"rsum {metrics['rsum']:.1f}"]
    if intervals := metrics.get("intervals"):
        parts[0] += f"{_half(intervals['rsum'])} (± half the {intervals['level']:.0%} interval over images)"
    if metrics.get("warning"):
        parts.append(metrics["warning"])
    if metrics.get("seed") is not None:
        parts.append(f"seed {metrics['seed']}")
    if metrics.get("resumed_at_step"):
        parts.append(f"resumed at step {metrics['resumed_at_step']}")
    if seconds is not None:
        parts.append(duration(seconds))
    return " · ".join(parts)
