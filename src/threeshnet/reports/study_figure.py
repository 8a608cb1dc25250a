"""The figure of a study: rsum of every run and its mean over seeds, by level."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from threeshnet.files import replacing
from threeshnet.reports.study_report import Comparison, values
from threeshnet.reports.study_rows import Row, by_level, groups, label

BASELINE, OTHER = "#d1495b", "#1b6ca8"
WIDTH, HEIGHT_OF_A_LEVEL, HEIGHT_OF_THE_REST = 7.0, 0.34, 0.9  # inches


def draw(rows: Sequence[Row], comparison: Comparison, file: Path) -> None:
    """The same rows give the same bytes: nothing of the time or the machine is written into the file."""
    found = {name: by_level(group, comparison.factors) for name, group in groups(rows).items()}
    heights = [HEIGHT_OF_THE_REST + HEIGHT_OF_A_LEVEL * len(levels) for levels in found.values()]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    rows_of_axes = figure.subplots(len(found), 1, squeeze=False, height_ratios=heights)
    for axes, ((experiment, setting), levels) in zip(rows_of_axes[:, 0], found.items(), strict=True):
        for place, (names, group) in enumerate(levels.items()):
            numbers = values(group, "rsum")
            colour = BASELINE if names == comparison.base(names) else OTHER
            error = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
            axes.errorbar(statistics.fmean(numbers), place, xerr=error, fmt="o", color=colour, capsize=3, markersize=6)
            axes.plot(numbers, [place] * len(numbers), "|", color=colour, alpha=0.7, markersize=10)
        axes.set_yticks(range(len(levels)), [label(names) for names in levels])
        axes.set(ylim=(len(levels) - 0.5, -0.5), xlabel="rsum")
        axes.set_title(f"{experiment}, setting {setting}", fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(file) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
