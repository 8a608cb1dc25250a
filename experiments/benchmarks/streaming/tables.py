"""The tables and the figure of README.md from the measured rows."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl

from ..common import read_rows
from .formats import IMAGE_BYTES

mpl.use("Agg")
import matplotlib.pyplot as plt

from threeshnet.reports.markdown import fill, marks, table

Row = dict[str, str]


def rewrite(folder: Path) -> None:
    """Put the tables of what is measured in `folder` between the markers of its README, and draw the figure."""
    texts = {}
    if (folder / "rows.csv").is_file():
        rows = read_rows(folder / "rows.csv")
        texts["speed"] = speed_table(rows)
        draw(rows, folder / "speed.png")
    if (folder / "memory.csv").is_file():
        texts["memory"] = memory_table(read_rows(folder / "memory.csv"))
    if (folder / "order.json").is_file():
        texts["order"] = order_table(json.loads((folder / "order.json").read_text(encoding="utf-8")))
    if (folder / "waiting.csv").is_file():
        texts["waiting"] = waiting_table(read_rows(folder / "waiting.csv"))
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    text += "".join("\n".join([*marks(name), ""]) for name in texts if marks(name)[0] not in text)
    readme.write_text(text, encoding="utf-8")  # another folder than this one begins with an empty page
    fill(readme, texts)


def speed_table(rows: Sequence[Row]) -> str:
    images = max(int(row["images"]) for row in rows)
    rows = [row for row in rows if int(row["images"]) == images]
    limits = {cache: statistics.median(speeds(rows, "raw read", cache) or [float("nan")]) for cache in ("cold", "warm")}
    lines = []
    for way in dict.fromkeys(row["way"] for row in rows):
        for cache in ("cold", "warm"):
            mine = [row for row in rows if row["way"] == way and row["cache"] == cache]
            if not mine:
                continue
            if not mine[0]["seconds"]:
                lines.append([way, mine[0]["order"], cache, "0", f"{mine[0]['note']}", *[""] * 6])
                continue
            found = speeds(rows, way, cache)
            middle = statistics.median(found)
            cpu = statistics.median(float(row["cpu_seconds"]) for row in mine) / (images * IMAGE_BYTES / 1e9)
            memory = max(float(row["anonymous_mb"]) for row in mine)
            size = int(mine[0]["disk_bytes"]) / 1e9
            numbers = [f"{len(found)}", f"{middle:,.0f}", f"{min(found):,.0f} to {max(found):,.0f}"]
            numbers += [f"{middle * 1e6 / IMAGE_BYTES:,.0f}", f"{middle / limits[cache]:.2f}"]
            lines.append([way, mine[0]["order"], cache, *numbers, f"{cpu:.2f}", f"{memory:,.0f}", f"{size:.2f}"])
    head = ["way", "order", "cache", "runs", "MB/s", "least to most", "samples/s", "of raw", "CPU s a GB", "memory MB"]
    title = f"{images:,} samples of {IMAGE_BYTES:,} bytes ({images * IMAGE_BYTES / 1e9:.1f} GB), medians of the runs:"
    return f"{title}\n\n{table([*head, 'disk GB'], lines)}"


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


def memory_table(rows: Sequence[Row]) -> str:
    head = ["images", "captions", "region width", "on disk", "workers", "started by"]
    head += ["before", "peak, anonymous", "peak, mapped files"]
    lines = []
    for row in rows:
        megabytes = [f"{float(row[key]):,.0f} MB" for key in ("start_mb", "anonymous_mb", "file_mb")]
        counts = [f"{int(row['images']):,}", f"{int(row['captions']):,}", row["width"]]
        lines.append([*counts, f"{float(row['disk_gb']):.2f} GB", row["workers"], row["start_method"], *megabytes])
    return table(head, lines)


def order_table(found: dict[str, dict[str, float]]) -> str:
    measures = list(next(iter(found.values())))
    rows = [[name, *(short(row[key]) for key in measures)] for name, row in found.items()]
    return table(["order", *measures], rows)


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def waiting_table(rows: Sequence[Row]) -> str:
    head = ["experiment", "order", "workers", "step", "waiting for data"]
    lines = [
        [row["experiment"], row["order"], row["workers"], f"{float(row['step']):.2f} s", f"{float(row['share']):.2%}"]
        for row in rows
    ]
    return table(head, lines)
