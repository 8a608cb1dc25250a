"""Tables and figure of this experiment: python experiments/first_photos/report.py [--collect runs/first_photos]

With --collect the metrics.json of every finished run become rows of results.csv (a job that has a row gets a new one).
Without it nothing but results.csv and authors.csv is read. The tables in README.md stand between markers.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from threeshnet.files import write_rows
from threeshnet.reports.markdown import fill

HERE = Path(__file__).resolve().parent
RESULTS, AUTHORS, README, FIGURE = "results.csv", "authors.csv", "README.md", "demo.png"
RECALLS = [f"{side}_r{cutoff}" for side in ("i2t", "t2i") for cutoff in (1, 5, 10)]
TAGS = ("what", "where", "both", "plain")
TELLING = TAGS[:3]  # captions that are false of the photo's twin
BY_TAG = [f"{tag}_{number}" for tag in TAGS for number in ("r1", "r5", "pair")]
FACTS = [
    "selection",
    "batch",
    "epochs",
    "steps",
    "resumed_at_step",
    "minutes",
    "peak_memory_gb",
    "checkpoint",
    "commit",
]
PROVENANCE = ["job", "data", "split", "images", "captions", "protocol", "variant", "features", "seed"]
COLUMNS = [*PROVENANCE, "rsum", *RECALLS, *BY_TAG, *FACTS]
JOB = re.compile(r"(?P<data>[^-]+)-(?P<variant>.+)-(?P<seed>\d+)")
VARIANTS = {
    "hybrid": "hybrid, guided",
    "region": "regions, guided",
    "grid": "grid, guided",
    "vse": "hybrid, no guidance (VSE-infinity)",
    "hybrid-shuffled": "control: hybrid, another photo's segmentation",
    "hybrid-lite0": "control: hybrid, lite0's segmentation",
}
FLICKR8K = {"grid-full": "grid, full", "region-half": "regions, half", "hybrid-half": "hybrid, half"}
FLICKR8K |= {"grid-proxy": "grid, proxy"}
NOTHING = "*No results yet.*"

Row = dict[str, str]


def main(arguments: Sequence[str] | None = None, folder: Path = HERE) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", type=Path, metavar="RUNS", help="folder of the run directories, named by job")
    runs = parser.parse_args(arguments).collect
    if runs is not None:
        write_rows(folder / RESULTS, COLUMNS, collected(runs, read_csv(folder / RESULTS)))
    rows, authors = read_csv(folder / RESULTS), read_csv(folder / AUTHORS)
    figure = f"\n\n![rsum, recall by tag, and which of two twins]({FIGURE})" if of(rows, "demo") else ""
    tables = {
        "demo": recall_table(of(rows, "demo"), VARIANTS) + figure,
        "tags": tag_table(of(rows, "demo")),
        "effect": effect_table(of(rows, "demo")),
        "flickr8k": flickr8k_table(of(rows, "flickr8k"), authors),
        "cost": cost_table(rows),
    }
    fill(folder / README, tables)
    if figure:
        draw(of(rows, "demo"), folder / FIGURE)


# ---- rows


def collected(runs: Path, earlier: Iterable[Row]) -> list[Row]:
    """The rows of all finished runs, and those of earlier ones that are not there any more."""
    files = sorted(runs.glob("*/metrics.json"))
    if not files:
        raise SystemExit(f"{runs} holds no <job>/metrics.json; run experiments/first_photos/run.sh first")
    found = {row["job"]: row for row in earlier}
    for file in files:
        found[file.parent.name] = row_of(file.parent.name, json.loads(file.read_text(encoding="utf-8")))
    return [found[job] for job in sorted(found)]


def row_of(job: str, metrics: Mapping[str, Any]) -> Row:
    """One run as a row; what its metrics do not have is empty."""
    parts = JOB.fullmatch(job)
    if parts is None or parts["data"] != metrics["data"] or int(parts["seed"]) != metrics["seed"]:
        found = f"data {metrics['data']} and seed {metrics['seed']}"
        raise SystemExit(f"{job}: a run directory is named <data>-<variant>-<seed>, and its metrics.json has {found}")
    row = {key: metrics.get(key, "") for key in (*PROVENANCE, "rsum", *FACTS)}
    row |= {"job": job, "variant": parts["variant"], "batch": metrics.get("batch_size", "")}
    row["features"] = str(metrics.get("experiment", "")).split("_")[0]
    for name in RECALLS:
        side, cutoff = name.split("_r")
        row[name] = metrics[side][f"R@{cutoff}"]
    for tag, found in metrics.get("by_tag", {}).items():
        numbers = {"r1": found["R@1"], "r5": found["R@5"], "pair": found.get("pair_accuracy", "")}
        row |= {f"{tag}_{number}": value for number, value in numbers.items()}
    return {key: f"{row[key]:.6g}" if isinstance(row.get(key), float) else str(row.get(key, "")) for key in COLUMNS}


def of(rows: Iterable[Row], data: str) -> list[Row]:
    return [row for row in rows if row["data"] == data]


def read_csv(file: Path) -> list[Row]:
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


# ---- numbers


def values(rows: Iterable[Row], key: str) -> list[float]:
    return [float(row[key]) for row in rows if row[key] != ""]


def spread(numbers: Sequence[float], sign: str = "") -> str:
    """Mean and sample standard deviation.

    >>> spread([1.0, 2.0, 3.0]), spread([4.25]), spread([])
    ('2.0 ± 1.0', '4.2', '')
    """
    if not numbers:
        return ""
    mean = f"{statistics.fmean(numbers):{sign}.1f}"
    return f"{mean} ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else mean


def variants(rows: Sequence[Row], names: Mapping[str, str]) -> list[tuple[str, list[Row]]]:
    """The rows of every variant that has some, in the order of `names`, under the name to print."""
    groups = [(label, [row for row in rows if row["variant"] == key]) for key, label in names.items()]
    return [(label, found) for label, found in groups if found]


def differences(rows: Sequence[Row], one: str, other: str, key: str) -> list[float]:
    """What `one` has more than `other` in the runs of each seed that both have."""
    sides = [
        {row["seed"]: float(row[key]) for row in rows if row["variant"] == name and row[key]} for name in (one, other)
    ]
    return [sides[0][seed] - sides[1][seed] for seed in sorted(sides[0].keys() & sides[1].keys())]


# ---- tables


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    if not lines:
        return NOTHING
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def seeds(rows: Iterable[Row]) -> str:
    return " ".join(sorted(row["seed"] for row in rows))


RECALL_HEADER = ["i2t R@1", "R@5", "R@10", "t2i R@1", "R@5", "R@10", "rsum"]


def recall_table(rows: Sequence[Row], names: Mapping[str, str]) -> str:
    lines = [
        [label, seeds(found), *(spread(values(found, key)) for key in (*RECALLS, "rsum"))]
        for label, found in variants(rows, names)
    ]
    return table(["model", "seeds", *RECALL_HEADER], lines)


def tag_table(rows: Sequence[Row]) -> str:
    lines = []
    for label, found in variants(rows, VARIANTS):
        recalls = [" / ".join(spread(values(found, f"{tag}_{cut}")) for cut in ("r1", "r5")) for tag in TAGS]
        pairs = [spread(values(found, f"{tag}_pair")) or "–" for tag in TELLING]
        lines.append([label, *recalls, *pairs])
    return table(["model", *(f"{tag}: R@1 / R@5" for tag in TAGS), *(f"{tag}: which twin" for tag in TELLING)], lines)


def effect_table(rows: Sequence[Row]) -> str:
    pairs = {"no guidance": "vse", "another photo's segmentation": "hybrid-shuffled"}
    pairs |= {"lite0's segmentation": "hybrid-lite0"}
    keys = ["rsum", *(f"{tag}_r5" for tag in TAGS), *(f"{tag}_pair" for tag in TELLING)]
    lines = []
    for label, other in pairs.items():
        found = [differences(rows, "hybrid", other, key) for key in keys]
        if found[0]:
            lines.append([f"guided against {label}", *(spread(numbers, "+") or "–" for numbers in found)])
    return table(["hybrid", "rsum", *(f"{tag}: R@5" for tag in TAGS), *(f"{t}: which twin" for t in TELLING)], lines)


def flickr8k_table(rows: Sequence[Row], authors: Sequence[Row]) -> str:
    lines = []
    for key, label in FLICKR8K.items():
        ours = [(row, "threeshnet", "copies") for row in rows if row["variant"] == key]
        theirs = [(row, "authors' modules", row["photos"]) for row in authors if row["variant"] == key]
        for row, who, photos in [*ours, *theirs]:
            numbers = [f"{float(row[name]):.1f}" for name in (*RECALLS, "rsum")]
            lines.append([label, who, photos, row["seed"], *numbers])
    return table(["setting", "code", "photos", "seed", *RECALL_HEADER], lines)


def cost_table(rows: Sequence[Row]) -> str:
    lines = []
    for data, names in {"demo": VARIANTS, "flickr8k": FLICKR8K}.items():
        for label, found in variants(of(rows, data), names):
            whole = [row for row in found if row["resumed_at_step"] in ("", "0")]  # a resumed run knows its last part
            first = found[0]
            minutes = spread(values(whole, "minutes")) or "resumed"
            facts = [first[key] for key in ("batch", "epochs", "steps")]
            lines.append([f"{data}: {label}", *facts, minutes, spread(values(found, "peak_memory_gb"))])
    return table(["run", "batch", "epochs", "steps", "minutes", "peak memory, GB"], lines)


# ---- figure

COLOURS = ("#1b6ca8", "#3b9c8f", "#7a5ca6", "#d1495b", "#9a9a9a", "#c9a227")


def draw(rows: Sequence[Row], file: Path) -> None:
    """rsum of every run, recall by tag, and which twin, with the spread over seeds."""
    groups = variants(rows, VARIANTS)
    twins = any(values(rows, f"{tag}_pair") for tag in TELLING)
    figure = Figure(figsize=(11 if twins else 8, 3.6), layout="constrained", dpi=140)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3 if twins else 2)
    for place, (label, found) in enumerate(groups):
        point(axes[0], place, values(found, "rsum"), COLOURS[place], label)
    axes[0].set(title="rsum on the test split", xticks=[], ylabel="sum of six recalls")
    by_tag(axes[1], groups, TAGS, lambda tag: f"{tag}_r5")
    axes[1].set(title="captions by what they turn on", ylabel="text → image R@5, %")
    if twins:
        by_tag(axes[2], groups, TELLING, lambda tag: f"{tag}_pair")
        axes[2].axhline(50, color="black", linewidth=0.8, linestyle=":")
        axes[2].set(title="which of two twins? (chance 50)", ylabel="%")
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    partial = file.with_suffix(".partial.png")
    figure.savefig(partial, metadata={"Software": None})
    partial.replace(file)


def by_tag(axes: Any, groups: Sequence[tuple[str, list[Row]]], tags: Sequence[str], key: Callable[[str], str]) -> None:
    for number, tag in enumerate(tags):
        for place, (_, found) in enumerate(groups):
            x = number + 0.7 * (place + 0.5) / len(groups) - 0.35
            point(axes, x, values(found, key(tag)), COLOURS[place])
    axes.set_xticks(range(len(tags)), tags)


def point(axes: Any, x: float, numbers: Sequence[float], colour: str, label: str | None = None) -> None:
    """The mean with its standard deviation, and a small mark for every seed."""
    if not numbers:
        return
    error = statistics.stdev(numbers) if len(numbers) > 1 else 0
    axes.errorbar(x, statistics.fmean(numbers), error, fmt="o", color=colour, capsize=3, markersize=6, label=label)
    axes.plot([x] * len(numbers), numbers, "_", color=colour, alpha=0.6, markersize=9)


if __name__ == "__main__":
    main()
