"""Where the time goes: bars from the measured stages, for the demo, for Flickr8k, and for a step of COCO's size."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from threeshnet.files import replacing, write_rows

from .made_up import SETTINGS
from .stage import OURS

Row = Mapping[str, str]
OF_A_STEP = ("image_training", "text_training", "objective", "optimizer")
OF_PHOTOS = ("224 px", "lite0")  # sizes of the stages before there are shards
COLOURS = {
    "rendering": "#8d6b94",
    "regions": "#b185a7",
    "grid": "#c3a29e",
    "segmentation": "#e8dbc5",
    "reading": "#2f6690",
    "collating": "#81c3d7",
    "image_training": "#d1495b",
    "text_training": "#edae49",
    "objective": "#66a182",
    "optimizer": "#2e4057",
    "rest of a step": "#b8b8b8",
    "evaluation": "#8d96a3",
}


class Command(NamedTuple):
    """How often the stages run in a whole command."""

    name: str
    setting: str
    photos: int  # that are rendered or extracted
    extraction: Sequence[str]  # stages
    steps: int
    scored: int  # images that are encoded and ranked, over all epochs


# Photos, captions and epochs are those of conf/data, conf/setting and the public split of Flickr8k (6,000 and 1,000).
# The demo has 800, 300 and 500 photos, and 8 epochs.
COMMANDS = (
    Command("hybrid_demo, whole", "demo", 1_600, ("rendering", "regions", "grid"), 4_000 // 64 * 8, 300 * 8 + 500),
    Command("grid_flickr8k, whole", "flickr8k", 8_000, ("grid", "segmentation"), 30_000 // 128 * 6, 500 * 6 + 1_000),
    Command("region_coco, one step", "coco", 0, (), 1, 0),
)


def parts(rows: Sequence[Row], command: Command) -> dict[str, float]:
    """Seconds of each part of a command; empty where a stage was not measured."""
    ours = [row for row in rows if row["way"] == OURS and row["precision"] == "float32"]
    ours = [row for row in ours if row["size"] in (command.setting, *OF_PHOTOS)]
    seconds: dict[str, list[float]] = {}
    for row in ours:
        seconds.setdefault(row["stage"], []).append(float(row["seconds"]) / int(row["items"]))
    batch = SETTINGS[command.setting].batch
    counts = dict.fromkeys(command.extraction, command.photos)
    counts |= dict.fromkeys(("reading", "collating", *OF_A_STEP, "step"), command.steps * batch)
    counts |= {"optimizer": command.steps} | ({"evaluation": command.scored} if command.scored else {})
    if not counts.keys() <= seconds.keys():
        return {}
    made = {stage: statistics.median(seconds[stage]) * count for stage, count in counts.items()}
    made["rest of a step"] = max(made.pop("step") - sum(made[stage] for stage in OF_A_STEP), 0)
    return made


def draw(rows: Sequence[Row], folder: Path) -> None:
    """where.csv and where.png: a bar for each command whose stages were all measured; no picture without a bar."""
    bars = {command.name: made for command in COMMANDS if (made := parts(rows, command))}
    cells = [(name, part, f"{seconds:.3f}") for name, made in bars.items() for part, seconds in made.items()]
    columns = ("command", "part", "seconds")
    write_rows(folder / "where.csv", columns, (dict(zip(columns, row, strict=True)) for row in cells))
    if not bars:
        return
    figure = Figure(figsize=(8, 0.7 * len(bars) + 1.6), layout="constrained")
    axes = figure.subplots()
    for place, (name, made) in enumerate(reversed(bars.items())):
        total, left = sum(made.values()), 0.0
        for part, seconds in made.items():
            share = 100 * seconds / total
            axes.barh(place, share, left=left, color=COLOURS[part], edgecolor="white", linewidth=0.5)
            if share >= 4:
                axes.text(left + share / 2, place, f"{share:.0f}", ha="center", va="center", fontsize=7)
            left += share
        shown = f"{total / 60:.1f} min" if total > 120 else f"{total:.2f} s"
        axes.text(101, place, shown, va="center", fontsize=8)
        axes.text(0, place + 0.47, name, fontsize=8)
    used = [part for part in COLOURS if any(part in made for made in bars.values())]
    handles = [Patch(color=COLOURS[part]) for part in used]
    figure.legend(handles, used, loc="outside lower center", ncols=6, fontsize=7)
    axes.set_yticks([])
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20), [f"{share}%" for share in range(0, 101, 20)], fontsize=7)
    FigureCanvasAgg(figure)
    with replacing(folder / "where.png") as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})
