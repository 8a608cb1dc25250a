"""The figure of a study: rsum of every run, and the difference of each level from the baseline."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from threeshnet.files import replacing
from threeshnet.metrics.comparisons import Difference
from threeshnet.reports.effects import Effect
from threeshnet.reports.results import Level, Results, Setting

BASELINE, OTHER, REFERENCE = "#d1495b", "#1b6ca8", "#444444"
WIDTH, HEIGHT_OF_A_LEVEL, HEIGHT_OF_THE_REST = 9.0, 0.34, 0.9  # inches
CUT = 3.0  # times the median interval: what reaches farther is cut at the edge, or it would be all that is seen


def draw(results: Results, file: Path) -> None:
    """The same rows give the same bytes.

    Left, the runs of each level and their mean. Right, where there are two seeds or more, the difference from the
    baseline, paired by seed, with both intervals.
    """
    heights = [HEIGHT_OF_THE_REST + HEIGHT_OF_A_LEVEL * len(setting.levels) for setting in results.settings]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(heights), 2, squeeze=False, height_ratios=heights)
    for (left, right), setting in zip(panels, results.settings, strict=True):
        _runs(left, list(setting.levels.values()), results)
        left.set_title(f"{setting.experiment}, setting {setting.name}", fontsize=9, loc="left")
        _differences(right, setting)
        for axes in (left, right):
            axes.set_ylim(len(setting.levels) - 0.5, -0.5)
            axes.spines[["top", "right"]].set_visible(False)
    write_figure(figure, file)


def write_figure(figure: Figure, file: Path) -> None:
    """A PNG whose bytes hold nothing of the time or the machine."""
    with replacing(file) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


def _runs(axes: Axes, levels: Sequence[Level], results: Results) -> None:
    """A stroke per run, a dot at the mean."""
    for row, level in enumerate(levels):
        numbers = list(level.rsum.values.values())
        colour = BASELINE if level.is_base else OTHER
        axes.plot(numbers, [row] * len(numbers), "|", color=colour, markersize=12)
        axes.plot(statistics.fmean(numbers), row, "o", color=colour, markersize=6)
    for rsum in results.reference.values():
        axes.axvline(rsum, color=REFERENCE, linestyle="dashed", linewidth=1)
    axes.set_yticks(range(len(levels)), [str(level) for level in levels])
    axes.set_ylabel(" + ".join(results.factors), fontsize=9)
    axes.set_xlabel("rsum")


def _differences(axes: Axes, setting: Setting) -> None:
    """A thin line is the interval over seeds, a thick one that over seeds and photos."""
    levels = list(setting.levels.values())
    effects: Mapping[int, Effect | None] = {
        row: level.effect_on("rsum", level.base) for row, level in enumerate(levels) if not level.is_base
    }
    differences = {
        row: (each.over_seeds, each.with_photos) for row, each in effects.items() if each and each.over_seeds
    }
    if not differences:
        axes.set_axis_off()
        return
    axes.axvline(0, color=BASELINE, linewidth=1)
    for row, (seeds, photos) in differences.items():
        if photos is not None:
            axes.hlines(row, *photos.interval, color=OTHER, alpha=0.35, linewidth=6)
        axes.hlines(row, *seeds.interval, color=OTHER, linewidth=1.2)
        axes.plot(seeds.value, row, "o", color=OTHER, markersize=6)
    axes.set_xlim(*_limits([seeds for seeds, _ in differences.values()]))
    axes.set_yticks(range(len(levels)), [""] * len(levels))
    axes.set_xlabel("rsum, difference from the baseline")


def _limits(differences: Sequence[Difference]) -> tuple[float, float]:
    """Where the axis ends: every value is on it, and so is every interval but one far wider than the others."""
    halves = [(each.interval.high - each.interval.low) / 2 for each in differences]
    most = CUT * statistics.median(halves)
    low = min(each.value - min(half, most) for each, half in zip(differences, halves, strict=True))
    high = max(each.value + min(half, most) for each, half in zip(differences, halves, strict=True))
    room = 0.05 * (max(high, 0.0) - min(low, 0.0))
    return min(low, 0.0) - room, max(high, 0.0) + room
