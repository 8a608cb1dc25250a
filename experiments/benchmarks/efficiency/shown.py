"""The rows of the tables and the figure, from results.json alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from threeshnet.reports.figure import write_figure

from .systems import CROSS, THREE, VSE
from .whole import DIRECTIONS, IMAGES, PAIRS, SENTENCES, Pick, Row, Whole, sampled, search, speeds, whole

SYSTEMS = (THREE, VSE, CROSS)
# In the order of drawing: where two systems share what is measured, the thick one stays visible below the thin one.
LOOKS: dict[str, dict[str, Any]] = {
    VSE: {"color": "#1b6ca8", "marker": "s", "markersize": 9, "linewidth": 3.5, "alpha": 0.55},
    THREE: {"color": "#d1495b", "marker": "o", "markersize": 4},
    CROSS: {"color": "#66717e", "marker": "^", "markersize": 5},
}
GIGA = 1e9
FLOAT = 4  # bytes


def measured(rows: Mapping[str, Row]) -> list[dict[str, Any]]:
    """A row of cells for everything that was measured."""
    lines = []
    for name in ordered(rows):
        row, seconds = rows[name], rows[name]["seconds"]
        middle = statistics.median(seconds)
        lines.append(
            {
                "what": name,
                "of": f"{row['items']:,} {row['unit']}",
                "repeats": len(seconds),
                "seconds": short(middle),
                "range": f"{short(min(seconds))} to {short(max(seconds))}",
                "a second": short(row["items"] / middle),
            }
        )
    return lines


def ordered(rows: Mapping[str, Row]) -> list[str]:
    """Encoding, searching from the smallest gallery on, and pairs, whenever each was measured."""
    searches = [search(direction, images) for images in galleries(rows) for direction in DIRECTIONS]
    return [*IMAGES.values(), *dict.fromkeys(SENTENCES.values()), *searches, PAIRS]


def galleries(rows: Mapping[str, Row]) -> list[int]:
    """Numbers of images, ascending."""
    return sorted({row["gallery"] for row in rows.values() if row.get("gallery")})


def totals(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row of cells for every system and gallery: what the measured parts come to."""
    rows, settings = found["rows"], found["settings"]
    lines = []
    for images in galleries(rows):
        captions = images * settings["captions"]
        base = of(found, CROSS, images)
        for system in SYSTEMS:
            whole, near = of(found, system, images), sampled(rows, system, images, captions)
            any_near = max(near[:3])
            ends = [of(found, system, images, pick).kpps for pick in (max, min)]
            stored = images * settings["dim"] * FLOAT * (settings["regions"] if system == CROSS else 1)
            lines.append(
                {
                    "images": f"{images:,}",
                    "system": system,
                    "encode images, s": near.images + short(whole.images),
                    "encode sentences, s": near.sentences + short(whole.sentences),
                    "score pairs, s": near.t2i + short(whole.scoring),
                    "whole, s": any_near + short(whole.seconds),
                    "Kpps, whole": f"{any_near}{short(whole.kpps)} ({short(ends[0])} to {short(ends[1])})",
                    "Kpps, scoring alone": near.t2i + short(whole.scoring_kpps),
                    "sentence queries": max(near.sentences, near.t2i) + short(whole.sentence_queries),
                    "image queries": max(near.images, near.i2t) + short(whole.image_queries),
                    "times": "1" if system == CROSS else times(whole, base),
                    "encoded images, GB": short(stored / GIGA),
                }
            )
    return lines


def ratios(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How many times the pairs of the cross-attention 3SHNet scores a second, encoding charged, by gallery.

    `low` holds its slowest repeats against the rival's fastest, `high` the other way round. `scoring` has no encoding.
    What guidance costs: times VSE-infinity's time for an image, and percent of the whole.
    """

    def times(images: int, number: str, mine: Pick = statistics.median, theirs: Pick = statistics.median) -> str:
        ours, rivals = of(found, THREE, images, mine), of(found, CROSS, images, theirs)
        return short(getattr(ours, number) / getattr(rivals, number))

    lines = []
    for images in galleries(found["rows"]):
        three, vse = (of(found, system, images) for system in (THREE, VSE))
        lines.append(
            {
                "images": images,
                "times": times(images, "kpps"),
                "low": times(images, "kpps", max, min),
                "high": times(images, "kpps", min, max),
                "scoring": times(images, "scoring_kpps"),
                "guidance_image": short(three.images / vse.images),
                "guidance_whole": f"{100 * (three.seconds / vse.seconds - 1):.0f}%",
            }
        )
    return lines


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
    """The same rows give the same bytes."""
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
    write_figure(figure, file)


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
