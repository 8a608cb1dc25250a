"""The charts of the HTML pages, each drawn twice: for a light page and for a dark one."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from threeshnet.evaluation.panels import class_label
from threeshnet.reports.card_numbers import Numbers
from threeshnet.reports.study_runs import Band

DPI = 160  # twice what a page shows, for sharp screens
WIDE = 4.4  # inches
BINS = 40
FEW = 60  # different whole numbers that get a bar each
LONGEST_BARS = 16
JPEG_QUALITY = 82


class Theme(NamedTuple):
    """Colours that go with a page."""

    ink: str
    bar: str


LIGHT, DARK = Theme("#333333", "#3b6ea5"), Theme("#c9d1d9", "#6ea8dc")


class Frame(NamedTuple):
    """Size of a figure and the room left and below its axes, in inches: a layout that measures takes twice as long."""

    wide: float
    high: float
    left: float
    below: float


HISTOGRAM = Frame(WIDE, 2.4, left=0.6, below=0.45)
CURVES = Frame(7.2, 3.4, left=0.65, below=0.5)
SMALL = Frame(4.4, 2.5, left=0.65, below=0.5)
# Okabe and Ito's, told apart with any colour vision; the blue is lighter, to be seen on a dark ground.
COLOURS = ("#1f86d0", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c", "#b8a900")
STYLES = ("solid", "dashed", "dotted", "dashdot")  # when the colours are used up


class Chart(NamedTuple):
    """A chart in both themes, as data URIs (empty where the caption suffices), with its caption."""

    title: str
    light: str
    dark: str
    says: str


def figures_of(numbers: Numbers, class_names: Sequence[str]) -> Iterator[Chart]:
    """A chart for every field that the shards have."""
    yield histogram("captions an image", numbers.captions_an_image, "captions")
    yield histogram("length of captions", numbers.words, "words")
    if len(numbers.regions_an_image):
        yield histogram("regions an image", numbers.regions_an_image, "regions")
    if len(numbers.scores):
        yield histogram("scores of regions", numbers.scores, "score")
    if len(numbers.sizes):
        yield histogram("longer side of photos", numbers.sizes.max(axis=1), "pixels")
        yield histogram("shape of photos", numbers.sizes[:, 0] / numbers.sizes[:, 1], "width / height")
    for name, norms in numbers.norms.items():
        yield histogram(f"length of {name} vectors", norms, "Euclidean norm")
    if numbers.class_cells.sum():
        shares = numbers.class_cells / numbers.class_cells.sum()
        yield bars("classes by area", [*class_names, "(void)"], shares, "share of all cells of seg/map")
    if numbers.class_images.sum():
        yield bars("classes by images", class_names, numbers.class_images, "images with the class in seg/categories")


def histogram(title: str, values: np.ndarray, unit: str) -> Chart:
    """How often each value occurs: a caption alone where all are equal, a bar each where they are few whole numbers."""
    numbers = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not len(numbers):
        return Chart(title, "", "", "none")
    low, high, middle = float(numbers.min()), float(numbers.max()), float(np.median(numbers))
    whole = numbers.dtype.kind in "iu"
    shown = [f"{number:,.{0 if whole else 2}f}" for number in (low, high)]
    if low == high:
        return Chart(title, "", "", f"{shown[0]} everywhere")
    few = whole and high - low < FEW
    edges = np.arange(low - 0.5, high + 1) if few else np.histogram_bin_edges(numbers.astype(np.float64), BINS)
    counts, edges = np.histogram(numbers, edges)

    def draw(axes: Axes, theme: Theme) -> None:
        _stairs(axes, theme, counts, edges, unit)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole))

    says = f"median {middle:,.{0 if middle.is_integer() and whole else 2}f}, from {shown[0]} to {shown[1]}"
    return drawn(title, draw, HISTOGRAM, says)


def _stairs(axes: Axes, theme: Theme, counts: np.ndarray, edges: np.ndarray, unit: str) -> None:
    axes.stairs(counts, edges, fill=True, color=theme.bar)
    axes.set_xlabel(unit)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def bars(title: str, names: Sequence[str], values: np.ndarray, unit: str) -> Chart:
    """The largest values with their names."""
    order = np.argsort(-values, kind="stable")
    order = order[values[order] > 0]
    shown = order[:LONGEST_BARS]

    def draw(axes: Axes, theme: Theme) -> None:
        axes.barh(range(len(shown)), values[shown], color=theme.bar, height=0.8)
        axes.set_yticks(range(len(shown)), [class_label(names[int(number)], 26) for number in shown], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        for label in axes.get_yticklabels():
            label.set_parse_math(False)  # a dollar sign in a name is a dollar sign

    says = f"the first {len(shown)} of {len(order)} that occur" if len(shown) < len(order) else "all that occur"
    return drawn(title, draw, Frame(WIDE, 0.55 + 0.19 * len(shown), left=1.7, below=0.45), says)


def data_uri(image: Image.Image, kind: str = "JPEG") -> str:
    """A picture as a data URI, to embed in a page."""
    stream = io.BytesIO()
    image.save(stream, kind, quality=JPEG_QUALITY)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def drawn(title: str, draw: Callable[[Axes, Theme], None], frame: Frame, says: str) -> Chart:
    """A figure in both themes, from what `draw` puts on its axes."""
    return Chart(title, _in_theme(draw, LIGHT, frame), _in_theme(draw, DARK, frame), says)


def _in_theme(draw: Callable[[Axes, Theme], None], theme: Theme, frame: Frame) -> str:
    figure = Figure(figsize=(frame.wide, frame.high), dpi=DPI)
    FigureCanvasAgg(figure)
    right, top = frame.wide - frame.left - 0.15, frame.high - frame.below - 0.1
    margins = frame.left / frame.wide, frame.below / frame.high, right / frame.wide, top / frame.high
    axes = figure.add_axes(margins)
    draw(axes, theme)
    axes.tick_params(colors=theme.ink, labelsize=7, length=2)
    axes.xaxis.label.set(color=theme.ink, fontsize=8)
    for name, spine in axes.spines.items():
        spine.set(visible=name in ("left", "bottom"), color=theme.ink, linewidth=0.6)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", transparent=True, metadata={"Software": None})  # no version in the bytes
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def colour(number: int) -> str:
    """The colour of the variant of this number; the page's legend uses it too."""
    return COLOURS[number % len(COLOURS)]


def band_figure(title: str, curves: Sequence[Band], variants: Sequence[str], unit: str) -> Chart:
    """A line (the mean) and a band (least to greatest seed) for each variant, in the variant's colour."""

    def draw(axes: Axes, theme: Theme) -> None:
        for band in curves:
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

    seeds = {band.runs for band in curves}
    says = f"Line: mean over seeds; band: least to greatest. Runs a variant: {', '.join(map(str, sorted(seeds)))}."
    return drawn(title, draw, CURVES, says)


def pooling_figure(name: str, sizes: Mapping[str, Sequence[float]]) -> Chart:
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


def semantic_figure(source: str, histogram: Mapping[str, Sequence[float]]) -> Chart:
    """The histogram of VSeM's weights."""
    counts, edges = np.asarray(histogram["counts"]), np.asarray(histogram["edges"])

    def draw(axes: Axes, theme: Theme) -> None:
        _stairs(axes, theme, counts, edges, "weight of a token")

    return drawn(f"VSeM's weights of {source}", draw, SMALL, f"{int(counts.sum()):,} tokens of held-out photos.")
