"""The panels of a highlight picture. Each draws into two axes: the picture, and the strip below it for its legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.patches import Patch, Rectangle

from threeshnet.records import VOID

SHOWN_REGIONS = 8  # boxes with the largest weights; more hide each other
NAMED_CLASSES = 6  # in the legend of the segmentation
# Distinct at a glance, and in print (ColorBrewer's Set2); a picture gives them to its largest classes.
CLASS_COLOURS = ("#66c2a5", "#fc8d62", "#8da0cb", "#e78ac3", "#a6d854", "#ffd92f", "#e5c494", "#4c78a8")
OTHER_CLASS, NO_CLASS = "#b3b3b3", "#000000"
NAMED = "#1f4e9c"  # dark on the heat's colours and on the grey photo
HEAT = ListedColormap(colormaps["YlOrRd"](np.linspace(0.15, 1, 256)))  # its palest end does not show on the grey photo


def picture(axes: Axes, photo: np.ndarray, title: str) -> None:
    """The photo [h, w, 3] alone."""
    axes.imshow(photo, aspect="equal")
    axes.set_title(title, fontsize=9.5)
    axes.set_axis_off()


def segmentation(axes: Axes, below: Axes, photo: np.ndarray, seg_map: np.ndarray, names: Sequence[str]) -> None:
    """The class map [64, 64] stretched over the photo, its largest classes in colour and named."""
    numbers, counts = np.unique(seg_map[seg_map != VOID], return_counts=True)
    largest: list[int] = numbers[np.argsort(-counts, kind="stable")][: len(CLASS_COLOURS)].tolist()
    colours = dict(zip(largest, CLASS_COLOURS, strict=False)) | {VOID: NO_CLASS}
    picture(axes, photo, "segmentation")
    shown = ListedColormap([colours.get(number, OTHER_CLASS) for number in range(VOID + 1)])
    axes.imshow(seg_map, cmap=shown, vmin=0, vmax=VOID, extent=_extent(photo), interpolation="nearest")
    patches = [Patch(color=colours[number], label=class_label(names[number])) for number in largest[:NAMED_CLASSES]]
    style: dict[str, Any] = {"labelspacing": 0.3, "columnspacing": 1, "handlelength": 1, "handleheight": 0.9}
    below.legend(handles=patches, loc="upper center", ncols=2, frameon=False, fontsize=7, borderpad=0.2, **style)


def region_weights(axes: Axes, below: Axes, photo: np.ndarray, weights: np.ndarray, boxes: np.ndarray) -> None:
    """The boxes [n, 4] with the largest `weights` [n]."""
    norm = _norm(weights)
    picture(axes, _faded(photo), "what (VSeM): regions")
    height, width = photo.shape[:2]
    for number in np.argsort(weights)[-SHOWN_REGIONS:]:
        x0, y0, x1, y1 = boxes[number] * (width, height, width, height)
        strength = float(norm(weights[number]))
        line: dict[str, Any] = {"edgecolor": HEAT(strength), "linewidth": 0.8 + strength}
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, **line))
    _scale(below, norm, "weight of the token", "{:.2f}")


def cell_weights(axes: Axes, below: Axes, photo: np.ndarray, weights: np.ndarray, grid: tuple[int, int]) -> None:
    """The `weights` [n] of the cells of a `grid` of so many rows and columns."""
    norm = _norm(weights)
    picture(axes, _faded(photo), "what (VSeM): cells")
    _heat(axes, weights.reshape(grid), norm, photo)
    _scale(below, norm, "weight of the token", "{:.2f}")


def place_attention(axes: Axes, below: Axes, photo: np.ndarray, attention: np.ndarray, tokens: str) -> None:
    """The VSpM `attention` [64, 64] of `tokens` over the places."""
    shares = attention * attention.size  # 1 where attention is spread evenly
    # few cells hold most of the attention: a linear scale would show dots alone
    norm = LogNorm(1, max(float(shares.max()), 2), clip=True)
    picture(axes, _faded(photo), f"where (VSpM): {tokens}")
    _heat(axes, shares, norm, photo)
    _scale(below, norm, "attention, even = 1×", "{:,.0f}×")


def contributions(
    axes: Axes, below: Axes, photo: np.ndarray, heat: np.ndarray, named: Sequence[tuple[float, float, float, float]]
) -> None:
    """The `heat` [h, w] in 0 to 1 of an explanation, and the boxes of the places named first, numbered."""
    picture(axes, _faded(photo), "why: what the match would lose")
    _heat(axes, heat, Normalize(0, 1), photo)
    height, width = photo.shape[:2]
    for number, box in enumerate(named, start=1):
        x0, y0, x1, y1 = np.array(box) * (width, height, width, height)
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=NAMED, linewidth=1.6))
        label: dict[str, Any] = {"boxstyle": "square,pad=0.15", "facecolor": NAMED, "linewidth": 0}
        axes.text(x0 + 2, y0 + 2, str(number), fontsize=6.5, color="white", bbox=label, va="top", clip_on=True)
    _scale(below, Normalize(0, 1), "contribution to the match", "{:.0f}")


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


def _faded(photo: np.ndarray) -> np.ndarray:
    """The photo in light grey, so that colour means weight alone."""
    grey = photo.mean(axis=-1, keepdims=True)
    return np.repeat(95 + 0.6 * grey, 3, axis=-1).astype(np.uint8)


def _norm(weights: np.ndarray) -> Normalize:
    lowest = float(weights.min())
    return Normalize(lowest, max(float(weights.max()), lowest + 1e-6))


def _extent(photo: np.ndarray) -> tuple[int, int, int, int]:
    return 0, photo.shape[1], photo.shape[0], 0


def _heat(axes: Axes, values: np.ndarray, norm: Normalize, photo: np.ndarray) -> None:
    alpha: Any = 0.1 + 0.65 * np.asarray(norm(values), dtype=float)
    axes.imshow(values, cmap=HEAT, norm=norm, alpha=alpha, extent=_extent(photo), interpolation="nearest")


def _scale(below: Axes, norm: Normalize, label: str, form: str) -> None:
    """A colour bar with its two ends named."""
    bar = below.inset_axes((0.1, 0.76, 0.8, 0.12))
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=HEAT, aspect="auto", extent=(0, 1, 0, 1))
    bar.set_xticks([0, 1], [form.format(norm.vmin), form.format(norm.vmax)])
    bar.set_yticks([])
    bar.tick_params(labelsize=7, length=2)
    bar.set_xlabel(label, fontsize=7, labelpad=-7)
