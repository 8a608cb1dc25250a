"""The figure of a study: rsum of every run, and what each level differs by from the baseline."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from threeshnet.files import replacing
from threeshnet.metrics.comparisons import Difference
from threeshnet.reports.study_report import Comparison, Levels, against, against_with_photos, values
from threeshnet.studies.columns import Row, by_level, groups, label

BASELINE, OTHER, REFERENCE = "#d1495b", "#1b6ca8", "#444444"
WIDTH, HEIGHT_OF_A_LEVEL, HEIGHT_OF_THE_REST = 9.0, 0.34, 0.9  # inches
CUT = 3.0  # times the median interval: what reaches farther is cut at the edge, or it would be all that is seen


def draw(rows: Sequence[Row], comparison: Comparison, file: Path) -> None:
    """The same rows give the same bytes: nothing of the time or the machine is written into the file.

    On the left the runs of each level and their mean; on the right, where two seeds or more are there, the difference
    from the baseline, paired by seed, with both intervals.
    """
    found = {name: by_level(group, comparison.factors) for name, group in groups(rows).items()}
    heights = [HEIGHT_OF_THE_REST + HEIGHT_OF_A_LEVEL * len(levels) for levels in found.values()]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(found), 2, squeeze=False, height_ratios=heights)
    for (left, right), ((experiment, setting), levels) in zip(panels, found.items(), strict=True):
        _runs(left, levels, comparison)
        left.set_title(f"{experiment}, setting {setting}", fontsize=9, loc="left")
        _differences(right, levels, comparison)
        for axes in (left, right):
            axes.set_ylim(len(levels) - 0.5, -0.5)
            axes.spines[["top", "right"]].set_visible(False)
    with replacing(file) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


def _runs(axes: Axes, levels: Levels, comparison: Comparison) -> None:
    """A stroke a run, a dot at the mean."""
    for place, (names, group) in enumerate(levels.items()):
        numbers = values(group, "rsum")
        colour = BASELINE if names == comparison.base(names) else OTHER
        axes.plot(numbers, [place] * len(numbers), "|", color=colour, markersize=12)
        axes.plot(statistics.fmean(numbers), place, "o", color=colour, markersize=6)
    for rsum in comparison.reference.values():
        axes.axvline(rsum, color=REFERENCE, linestyle="dashed", linewidth=1)
    axes.set_yticks(range(len(levels)), [label(names) for names in levels])
    axes.set_ylabel(" + ".join(comparison.factors), fontsize=9)
    axes.set_xlabel("rsum")


def _differences(axes: Axes, levels: Levels, comparison: Comparison) -> None:
    """A thin line is the interval over seeds, a thick one that over seeds and photos."""
    found = {
        place: (apart, against_with_photos(names, levels, comparison))
        for place, names in enumerate(levels)
        if names != comparison.base(names) and (apart := against(names, levels, comparison, "rsum")) is not None
    }
    if not found:
        axes.set_axis_off()
        return
    axes.axvline(0, color=BASELINE, linewidth=1)
    for place, (apart, with_photos) in found.items():
        if with_photos is not None:
            axes.hlines(place, *_ends(with_photos), color=OTHER, alpha=0.35, linewidth=6)
        axes.hlines(place, *_ends(apart), color=OTHER, linewidth=1.2)
        axes.plot(apart.value, place, "o", color=OTHER, markersize=6)
    axes.set_xlim(*_limits([apart for apart, _ in found.values()]))
    axes.set_yticks(range(len(levels)), [""] * len(levels))
    axes.set_xlabel("rsum less the baseline's")


def _ends(found: Difference) -> tuple[float, float]:
    return found.interval.low, found.interval.high


def _limits(found: Sequence[Difference]) -> tuple[float, float]:
    """Where the axis ends: every value is on it, and so is every interval but one far wider than the others."""
    halves = [(each.interval.high - each.interval.low) / 2 for each in found]
    most = CUT * statistics.median(halves)
    low = min(each.value - min(half, most) for each, half in zip(found, halves, strict=True))
    high = max(each.value + min(half, most) for each, half in zip(found, halves, strict=True))
    room = 0.05 * (max(high, 0.0) - min(low, 0.0))
    return min(low, 0.0) - room, max(high, 0.0) + room
