"""What the guidance looked at: photo, segmentation, VSeM weights, VSpM map, and captions (3SHNet, figure 5)."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from threeshnet.records import VOID

SHOWN_REGIONS = 8  # boxes with the largest weights; more hide each other
# Distinct at a glance, and in print (ColorBrewer's Set2); a picture gives them to its largest classes.
CLASS_COLOURS = ("#66c2a5", "#fc8d62", "#8da0cb", "#e78ac3", "#a6d854", "#ffd92f", "#e5c494", "#4c78a8")
OTHER_CLASS, NO_CLASS = "#b3b3b3", "#000000"
HEAT = ListedColormap(colormaps["YlOrRd"](np.linspace(0.15, 1, 256)))  # its palest end does not show on the grey photo
DPI = 120
PANEL, GAP, MARGIN = 2.4, 0.15, 0.15  # inches: width of a panel, space between panels, space around all
ABOVE, BELOW, LINE = 0.3, 0.6, 0.19  # title of a panel, legend of a panel, line of a caption
TALLEST = 1.4  # height of a panel to its width
RANK, LETTERS = 0.5, 13  # inches: column of the ranks; letters of 9 points in an inch


class Attention(NamedTuple):
    """What one branch looked at in one image; what the model lacks is None."""

    title: str  # what its tokens are: regions, cells
    boxes: np.ndarray | None  # [n, 4] xyxy in [0, 1] of region tokens
    grid_size: tuple[int, int] | None  # rows and columns of grid tokens
    semantic: np.ndarray | None  # [n] VSeM weights
    spatial: np.ndarray | None  # [64, 64] VSpM attention, weighted over the tokens


class Highlight(NamedTuple):
    """One image with everything that is drawn of it."""

    image_id: str
    photo: np.ndarray  # [h, w, 3] uint8
    seg_map: np.ndarray | None  # [64, 64] class numbers
    class_names: Sequence[str]
    branches: Sequence[Attention]
    captions: Sequence[tuple[str, int]]  # sentence and the rank of this image for it, from 1
    candidates: int  # images that were ranked


Panel = Callable[[Axes, Axes], None]  # draws into the axes of the picture and those of the legend below


def draw(highlight: Highlight, file: Path) -> None:
    """Write one PNG: the panels in rows, one row for each branch when there are several, and the captions below."""
    rows = _rows(highlight)
    height, width = highlight.photo.shape[:2]
    picture = PANEL * min(height / width, TALLEST)
    wide = 2 * MARGIN + max(3, *map(len, rows)) * (PANEL + GAP) - GAP  # captions want the room of three panels
    lines = _lines(highlight, round((wide - 2 * MARGIN - RANK) * LETTERS))
    high = len(rows) * (ABOVE + picture + BELOW) + len(lines) * LINE + 2 * MARGIN
    figure = Figure(figsize=(wide, high), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for line, row in enumerate(rows):
        bottom = high - (line + 1) * (ABOVE + picture + BELOW)
        for column, panel in enumerate(row):
            left = MARGIN + column * (PANEL + GAP)
            above = figure.add_axes((left / wide, (bottom + BELOW) / high, PANEL / wide, picture / high))
            below = figure.add_axes((left / wide, bottom / high, PANEL / wide, BELOW / high))
            below.set_axis_off()
            panel(above, below)
    for line, (rank, text) in enumerate(lines):
        y, style = (MARGIN + (len(lines) - line) * LINE) / high, {"fontsize": 9, "va": "top"}
        figure.text((MARGIN + RANK - 0.1) / wide, y, rank, ha="right", **style)
        # parse_math: a dollar sign in a caption is a dollar sign
        figure.text((MARGIN + RANK) / wide, y, text, parse_math=False, **style)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial.png")
    figure.savefig(partial)
    partial.replace(file)


def attention_of_tokens(attention: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """The map [64, 64] of VSpM attention [n, 4096]: the mean over tokens, by their VSeM weights where there are any."""
    side = round(attention.shape[-1] ** 0.5)
    share = np.ones(len(attention)) if weights is None else weights
    return (share @ attention / share.sum()).reshape(side, side)


def best_and_worst(captions: Mapping[str, int]) -> list[tuple[str, int]]:
    """The two captions that show most: best ranked and worst ranked.

    >>> best_and_worst({"a dog": 3, "a cat": 9, "a cow": 1})
    [('a cow', 1), ('a cat', 9)]
    """
    ordered = sorted(captions.items(), key=lambda item: item[1])
    return ordered if len(ordered) < 2 else [ordered[0], ordered[-1]]


def class_label(name: str, length: int = 17) -> str:
    """A class name that fits a legend: COCO's endings go, then the words that are too many.

    >>> class_label("sky-other-merged"), class_label("imagenet 0 389 391 394 395 758")
    ('sky', 'imagenet 0 389 +4')
    """
    words = name.removesuffix("-merged").removesuffix("-other").split()
    for kept in range(len(words), 0, -1):
        label = " ".join([*words[:kept], *([f"+{len(words) - kept}"] if kept < len(words) else [])])
        if len(label) <= length:
            return label
    return name[: length - 1] + "…"


def _rows(highlight: Highlight) -> list[list[Panel]]:
    photo, branches = highlight.photo, highlight.branches
    whole: list[Panel] = [lambda above, _: _picture(above, photo, "photo")]
    if highlight.seg_map is not None:
        whole.append(lambda above, below: _segmentation(above, below, highlight))
    guided: list[list[Panel]] = []
    for branch in branches:
        guided.append([])
        if branch.semantic is not None:
            guided[-1].append(lambda above, below, branch=branch: _semantic(above, below, photo, branch))
        if branch.spatial is not None:
            guided[-1].append(lambda above, below, branch=branch: _spatial(above, below, photo, branch))
    if len(branches) < 2 or not any(guided):
        return [whole + [panel for panels in guided for panel in panels]]
    return [whole[line : line + 1] + panels for line, panels in enumerate(guided)]


def _picture(axes: Axes, photo: np.ndarray, title: str) -> None:
    axes.imshow(photo, aspect="equal")
    axes.set_title(title, fontsize=9.5)
    axes.set_axis_off()


def _faded(photo: np.ndarray) -> np.ndarray:
    """The photo in light grey, so that colour means weight alone."""
    grey = photo.mean(axis=-1, keepdims=True)
    return np.repeat(95 + 0.6 * grey, 3, axis=-1).astype(np.uint8)


def _segmentation(axes: Axes, below: Axes, highlight: Highlight) -> None:
    assert highlight.seg_map is not None
    numbers, counts = np.unique(highlight.seg_map[highlight.seg_map != VOID], return_counts=True)
    largest = numbers[np.argsort(-counts, kind="stable")][: len(CLASS_COLOURS)].tolist()
    palette = np.full(256, OTHER_CLASS, dtype="<U7")
    palette[VOID] = NO_CLASS
    palette[largest] = CLASS_COLOURS[: len(largest)]
    _picture(axes, highlight.photo, "segmentation")
    height, width = highlight.photo.shape[:2]
    shown = ListedColormap(palette.tolist())
    seg_map = highlight.seg_map
    axes.imshow(seg_map, cmap=shown, vmin=0, vmax=255, extent=(0, width, height, 0), interpolation="nearest")
    labels = [(CLASS_COLOURS[place], class_label(highlight.class_names[n])) for place, n in enumerate(largest[:6])]
    patches = [Patch(color=colour, label=label) for colour, label in labels]
    style = {"loc": "upper center", "ncols": 2, "frameon": False, "fontsize": 7, "handlelength": 1, "handleheight": 0.9}
    below.legend(handles=patches, labelspacing=0.3, columnspacing=1, borderpad=0.2, **style)


def _semantic(axes: Axes, below: Axes, photo: np.ndarray, branch: Attention) -> None:
    weights = branch.semantic
    assert weights is not None
    norm = Normalize(float(weights.min()), max(float(weights.max()), float(weights.min()) + 1e-6))
    _picture(axes, _faded(photo), f"what (VSeM): {branch.title}")
    height, width = photo.shape[:2]
    if branch.boxes is not None:
        for number in np.argsort(weights)[-SHOWN_REGIONS:]:
            x0, y0, x1, y1 = branch.boxes[number] * (width, height, width, height)
            strength = float(norm(weights[number]))
            line = {"edgecolor": HEAT(strength), "linewidth": 0.8 + strength}
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, **line))
    elif branch.grid_size is not None:
        _heat(axes, weights.reshape(branch.grid_size), norm, (0, width, height, 0))
    _scale(below, norm, "weight of the token", "{:.2f}")


def _spatial(axes: Axes, below: Axes, photo: np.ndarray, branch: Attention) -> None:
    assert branch.spatial is not None
    shares = branch.spatial * branch.spatial.size  # 1 where attention is spread evenly
    # a few cells hold most of it: on an even scale there would be dots and nothing else
    norm = LogNorm(1, max(float(shares.max()), 2), clip=True)
    _picture(axes, _faded(photo), f"where (VSpM): {branch.title}")
    _heat(axes, shares, norm, (0, photo.shape[1], photo.shape[0], 0))
    _scale(below, norm, "attention to an even share", "{:.3g}×")


def _heat(axes: Axes, values: np.ndarray, norm: Normalize, extent: tuple[int, int, int, int]) -> None:
    alpha = 0.1 + 0.65 * np.asarray(norm(values), dtype=float)
    axes.imshow(values, cmap=HEAT, norm=norm, alpha=alpha, extent=extent, interpolation="nearest")


def _scale(below: Axes, norm: Normalize, label: str, form: str) -> None:
    """A colour bar with its two ends named."""
    bar = below.inset_axes((0.1, 0.76, 0.8, 0.12))
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=HEAT, aspect="auto", extent=(0, 1, 0, 1))
    bar.set_xticks([0, 1], [form.format(norm.vmin), form.format(norm.vmax)])
    bar.set_yticks([])
    bar.tick_params(labelsize=7, length=2)
    bar.set_xlabel(label, fontsize=7, labelpad=-7)


def _lines(highlight: Highlight, letters: int) -> list[tuple[str, str]]:
    """The captions, broken, with the rank of the photo for each at its first line."""
    count = f"{highlight.candidates:,}"
    lines = [("rank", f"of this photo among {count}, asked by two of its captions  ({highlight.image_id})")]
    for text, rank in highlight.captions:
        first, *others = textwrap.wrap(text, letters) or [""]
        lines += [(f"{rank:,}", first), *(("", other) for other in others)]
    return lines
