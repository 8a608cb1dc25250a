"""The page and the figure of the measured rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl

from threeshnet.files import read_rows

from ..common import write_page
from .formats import IMAGE_BYTES

mpl.use("Agg")
import matplotlib.pyplot as plt

Row = dict[str, str]


def rewrite(folder: Path) -> None:
    """Draw what is measured in `folder`, and write its page where a template lies there."""
    if (folder / "rows.csv").is_file():
        draw(read_rows(folder / "rows.csv"), folder / "speed.png")
    write_page(folder)


def speeds(rows: Iterable[Row], way: str, cache: str) -> list[float]:
    """MB/s of every run of a way, in uncompressed bytes."""
    mine = [row for row in rows if row["way"] == way and row["cache"] == cache and row["seconds"]]
    return [int(row["images"]) * IMAGE_BYTES / 1e6 / float(row["seconds"]) for row in mine]


def draw(rows: Sequence[Row], file: Path) -> None:
    """Bars of the median, lines from least to most."""
    ways = [way for way in dict.fromkeys(row["way"] for row in rows) if speeds(rows, way, "cold")][::-1]
    figure, axes = plt.subplots(figsize=(7, 0.28 * len(ways) + 1), layout="constrained")
    for shift, cache in ((0.2, "cold"), (-0.2, "warm")):
        found = [speeds(rows, way, cache) or [0] for way in ways]
        middles = [statistics.median(speed) for speed in found]
        ends = [[m - min(f) for m, f in zip(middles, found, strict=True)]]
        ends.append([max(f) - m for m, f in zip(middles, found, strict=True)])
        axes.barh([place + shift for place in range(len(ways))], middles, 0.4, xerr=ends, label=cache)
    axes.set_yticks(range(len(ways)), ways, fontsize=7)
    axes.set_xscale("log")
    axes.set_xlabel("MB/s")
    axes.legend(fontsize=7)
    figure.savefig(file, dpi=90)
    plt.close(figure)
