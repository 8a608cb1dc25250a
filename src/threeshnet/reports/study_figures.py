"""The figures of a study's page, drawn for a light and for a dark one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from threeshnet.reports.card_figures import CardFigure, Frame, Theme, drawn
from threeshnet.reports.study_numbers import Band

CURVES = Frame(7.2, 3.4, left=0.65, below=0.5)
SMALL = Frame(4.4, 2.5, left=0.65, below=0.5)
# Okabe and Ito's, told apart with any colour vision; the blue is lighter, to be seen on a dark ground.
COLOURS = ("#1f86d0", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c", "#b8a900")
STYLES = ("solid", "dashed", "dotted", "dashdot")  # when the colours are used up


def colour(number: int) -> str:
    """The colour of the variant of this number; the page's legend uses it too."""
    return COLOURS[number % len(COLOURS)]


def band_figure(title: str, found: Sequence[Band], variants: Sequence[str], unit: str) -> CardFigure:
    """A line (the mean) and a band (least to greatest seed) for each variant, in the variant's colour."""

    def draw(axes: Axes, theme: Theme) -> None:
        for band in found:
            number = list(variants).index(band.variant)
            style = STYLES[number // len(COLOURS) % len(STYLES)]
            marker = "o" if len(band.epochs) == 1 else None
            axes.fill_between(band.epochs, band.low, band.high, color=colour(number), alpha=0.28, linewidth=0)
            axes.plot(
                band.epochs, band.middle, color=colour(number), linestyle=style, linewidth=1.8, marker=marker, ms=4
            )
        axes.set_xlabel("epoch")
        axes.set_ylabel(unit, color=theme.ink, fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.grid(visible=True, axis="y", color=theme.ink, alpha=0.15, linewidth=0.6)

    seeds = {band.runs for band in found}
    says = f"Line: mean over seeds; band: least to greatest. Runs a variant: {', '.join(map(str, sorted(seeds)))}."
    return drawn(title, draw, CURVES, says)


def pooling_figure(name: str, sizes: Mapping[str, Sequence[float]]) -> CardFigure:
    """GPO's weights against the place in the sorted set, from the greatest value (0) to the least (1)."""

    def draw(axes: Axes, theme: Theme) -> None:
        for number, (size, weights) in enumerate(sizes.items()):
            places = np.linspace(0, 1, len(weights)) if len(weights) > 1 else np.zeros(1)
            share = np.asarray(weights) * len(weights)
            axes.plot(places, share, color=colour(number), linewidth=1.6, label=f"{size} tokens")
        axes.axhline(1, color=theme.ink, alpha=0.4, linewidth=0.7, linestyle="dotted")
        axes.set_xlabel("place in the sorted set, greatest value first")
        axes.set_ylabel("weight / mean weight", color=theme.ink, fontsize=8)
        axes.legend(frameon=False, fontsize=7, labelcolor=theme.ink)

    says = "1 is mean pooling (dotted); all weight at 0 is maximum pooling."
    return drawn(f"GPO: {name}", draw, SMALL, says)


def semantic_figure(source: str, histogram: Mapping[str, Sequence[float]]) -> CardFigure:
    """How VSeM's weights are spread."""
    counts, edges = np.asarray(histogram["counts"]), np.asarray(histogram["edges"])

    def draw(axes: Axes, theme: Theme) -> None:
        axes.stairs(counts, edges, fill=True, color=theme.bar)
        axes.set_xlabel("weight of a token")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))

    return drawn(f"VSeM's weights of {source}", draw, SMALL, f"{int(counts.sum()):,} tokens of held-out photos.")
