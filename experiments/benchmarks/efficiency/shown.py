"""The table of README.md and the figure, from results.json alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from threeshnet.files import replacing
from threeshnet.reports.markdown import table

from .systems import CROSS, THREE, VSE
from .whole import DIRECTIONS, IMAGES, PAIRS, SENTENCES, Pick, Row, Whole, sampled, search, speeds, whole

SYSTEMS = (THREE, VSE, CROSS)
# In the order of drawing: where two systems share what is measured, the thick one stays visible below the thin one.
LOOKS: dict[str, dict[str, Any]] = {
    VSE: {"color": "#1b6ca8", "marker": "s", "markersize": 9, "linewidth": 3.5, "alpha": 0.55},
    THREE: {"color": "#d1495b", "marker": "o", "markersize": 4},
    CROSS: {"color": "#66717e", "marker": "^", "markersize": 5},
}
EXPLAINED = (
    "**What it comes to**, for a gallery and all its sentences. ≈ is drawn out linearly from a sample in the table "
    "above; everything else was done in full. *Whole*: both sides encoded and every pair scored once; Kpps: thousands "
    "of pairs in each of those seconds (range: all parts at their slowest, all at their fastest). *Queries*: a second, "
    "each encoded and held against a gallery that is encoded already, many at a time. *Times*: Kpps over those of the "
    "cross-attention, whole / scoring alone."
)
GIGA = 1e9
FLOAT = 4  # bytes


def text(found: Mapping[str, Any]) -> str:
    """What stands between the marks."""
    settings, machine = found["settings"], found["machine"]
    on = ", ".join(f"{name} {value}" for name, value in machine.items())
    how = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
    commits = ", ".join(dict.fromkeys(row["commit"] for row in found["rows"].values()))
    return "\n\n".join(
        [
            f"On {on}. Settings: {how}. Commit: {commits}.",
            "**Measured.** Seconds: the median of the repeats, and least to most.",
            measured(found["rows"]),
            EXPLAINED,
            comes_to(found),
        ]
    )


def measured(rows: Mapping[str, Row]) -> str:
    lines = []
    for name in ordered(rows):
        row, seconds = rows[name], rows[name]["seconds"]
        middle = statistics.median(seconds)
        spread = f"{short(min(seconds))} to {short(max(seconds))}"
        counted = f"{row['items']:,} {row['unit']}"
        lines.append([name, counted, str(len(seconds)), short(middle), spread, short(row["items"] / middle)])
    return table(["what", "of", "repeats", "seconds", "range", "a second"], lines)


def ordered(rows: Mapping[str, Row]) -> list[str]:
    """Encoding, searching from the smallest gallery on, and pairs, whenever each was measured."""
    searches = [search(direction, images) for images in galleries(rows) for direction in DIRECTIONS]
    return [*IMAGES.values(), *dict.fromkeys(SENTENCES.values()), *searches, PAIRS]


def galleries(rows: Mapping[str, Row]) -> list[int]:
    """Numbers of images, ascending."""
    return sorted({row["gallery"] for row in rows.values() if row.get("gallery")})


def comes_to(found: Mapping[str, Any]) -> str:
    rows, settings = found["rows"], found["settings"]
    lines = []
    for images in galleries(rows):
        captions = images * settings["captions"]
        base = of(found, CROSS, images)
        for system in SYSTEMS:
            all_of_it, near = of(found, system, images), sampled(rows, system, images, captions)
            any_near = max(near[:3])
            ends = [of(found, system, images, pick).kpps for pick in (max, min)]
            stored = images * settings["dim"] * FLOAT * (settings["regions"] if system == CROSS else 1)
            lines.append(
                [
                    f"{images:,}",
                    system,
                    near.images + short(all_of_it.images),
                    near.sentences + short(all_of_it.sentences),
                    near.t2i + short(all_of_it.scoring),
                    any_near + short(all_of_it.seconds),
                    f"{any_near}{short(all_of_it.kpps)} ({short(ends[0])} to {short(ends[1])})",
                    near.t2i + short(all_of_it.scoring_kpps),
                    max(near.sentences, near.t2i) + short(all_of_it.sentence_queries),
                    max(near.images, near.i2t) + short(all_of_it.image_queries),
                    "1" if system == CROSS else times(all_of_it, base),
                    short(stored / GIGA),
                ]
            )
    head = ["images", "system", "encode images, s", "encode sentences, s", "score pairs, s", "whole, s", "Kpps, whole"]
    head += ["Kpps, scoring alone", "sentence queries", "image queries", "times"]
    return table([*head, "encoded images, GB"], lines)


def verdict(found: Mapping[str, Any]) -> str:
    """The answer in one paragraph."""
    rows, all_ratios = found["rows"], ratios(found)
    size = galleries(rows)[0]
    three, vse = (of(found, system, size) for system in (THREE, VSE))
    sizes = ", ".join(f"{row['images']:,}" for row in all_ratios)
    alone, charged = (", ".join(row[key] for row in all_ratios) for key in ("scoring", "times"))
    image, all_of_it = short(three.images / vse.images), f"{100 * (three.seconds / vse.seconds - 1):.0f}%"
    return (
        f"Scoring alone, the inner product does {alone} times as many pairs a second as the cross-attention at {sizes} "
        f"images. With encoding charged, that is {charged} times. Guidance costs {image} times VSE-infinity's time for "
        f"an image, and {all_of_it} of the whole at {size:,}."
    )


def ratios(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How many times the pairs of the cross-attention 3SHNet scores a second, encoding charged, by gallery.

    `low` holds its slowest repeats against the rival's fastest, `high` the other way round. `scoring` has no encoding.
    """

    def times(images: int, number: str, mine: Pick = statistics.median, theirs: Pick = statistics.median) -> str:
        ours, rivals = of(found, THREE, images, mine), of(found, CROSS, images, theirs)
        return short(getattr(ours, number) / getattr(rivals, number))

    return [
        {
            "images": images,
            "times": times(images, "kpps"),
            "low": times(images, "kpps", max, min),
            "high": times(images, "kpps", min, max),
            "scoring": times(images, "scoring_kpps"),
        }
        for images in galleries(found["rows"])
    ]


def times(one: Whole, base: Whole) -> str:
    """How much faster than `base`, whole / scoring alone; near at best, for `base` is a sample's."""
    ratios = one.kpps / base.kpps, one.scoring_kpps / base.scoring_kpps
    return " / ".join(f"≈{short(ratio)}" for ratio in ratios)


def of(found: Mapping[str, Any], system: str, images: int, pick: Pick = statistics.median) -> Whole:
    """One system at one gallery size."""
    return whole(speeds(found["rows"], system, images, pick), images, images * found["settings"]["captions"])


def short(value: float) -> str:
    """Three digits, since no more of them count.

    >>> [short(value) for value in (0.01234, 1.0, 12.34, 123.4, 1234.5, 9999.0)]
    ['0.0123', '1', '12.3', '123', '1,230', '10,000']
    """
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def draw(found: Mapping[str, Any], file: Path) -> None:
    """The same rows give the same bytes: nothing of the time or the machine is written into the file."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    lines(left, found, "kpps", "all encoded and all pairs scored (dotted: scored alone)")
    lines(left, found, "scoring_kpps", dotted=True)
    lines(right, found, "sentence_queries", "images encoded already")
    left.set_ylabel("thousands of pairs a second (Kpps)")
    right.set_ylabel("sentence queries a second")
    handles, labels = left.get_legend_handles_labels()
    right.legend(handles, labels, frameon=False, fontsize=8, loc="lower left")
    with replacing(file) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


def lines(axes: Axes, found: Mapping[str, Any], number: str, title: str = "", *, dotted: bool = False) -> None:
    """A line a system over the size of the gallery; bars from all parts at their slowest to all at their fastest."""
    sizes = galleries(found["rows"])
    for system, look in LOOKS.items():
        middles, least, most = (
            [getattr(of(found, system, images, pick), number) for images in sizes]
            for pick in (statistics.median, max, min)
        )
        if dotted:
            dots: dict[str, Any] = look | {"linestyle": ":", "marker": ""}
            axes.plot(sizes, middles, **dots)
            continue
        below = [middle - low for middle, low in zip(middles, least, strict=True)]
        above = [high - middle for middle, high in zip(middles, most, strict=True)]
        axes.errorbar(sizes, middles, yerr=[below, above], **look, elinewidth=1, capsize=3, label=system)
    axes.set(xscale="log", yscale="log", xlabel="images in the gallery")
    if title:
        axes.set_title(title, fontsize=9, loc="left")
    axes.set_xticks(sizes, [f"{images:,}" for images in sizes])
    axes.minorticks_off()
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
