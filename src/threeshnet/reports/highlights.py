"""What the guidance looked at: photo | segmentation | VSeM weights | VSpM map | captions (3SHNet, figure 5)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from threeshnet.records import VOID

SHOWN_REGIONS = 6  # boxes with the largest weights; more hide each other
SHOWN_CLASSES = 6  # in the legend of the segmentation
PANEL_INCHES = 2.7
GOLDEN_TURN = 0.618034  # steps round the colour wheel: neighbours in the class table get distant colours


class Attention(NamedTuple):
    """What one branch looked at in one image; what the model lacks is None."""

    title: str
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


def draw(highlight: Highlight, file: Path) -> None:
    """Write one row of panels as a PNG."""
    columns = 3 + 2 * len(highlight.branches)
    figure = Figure(figsize=(PANEL_INCHES * columns, PANEL_INCHES * 1.3), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns)
    _picture(axes[0], highlight.photo, f"photo {_short(highlight.image_id)}")
    _segmentation(axes[1], highlight)
    for number, branch in enumerate(highlight.branches):
        _semantic(axes[2 + 2 * number], highlight.photo, branch)
        _spatial(axes[3 + 2 * number], highlight.photo, branch)
    _captions(axes[-1], highlight)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial.png")
    figure.savefig(partial)
    partial.replace(file)


def class_colours(classes: int) -> np.ndarray:
    """A colour a class and black for void, [256, 3] in [0, 1]."""
    numbers = np.arange(256)
    shade = np.where(numbers // 2 % 2, 0.95, 0.75)
    colours = hsv_to_rgb(np.stack([numbers * GOLDEN_TURN % 1, np.full(256, 0.55), shade], axis=-1))
    colours[classes:] = 0
    return colours


def attention_of_tokens(attention: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """The map [64, 64] of VSpM attention [n, 4096]: the mean over tokens, by their VSeM weights where there are any."""
    side = round(attention.shape[-1] ** 0.5)
    share = np.ones(len(attention)) if weights is None else weights
    return (share @ attention / share.sum()).reshape(side, side)


def _picture(axes: Axes, photo: np.ndarray, title: str) -> None:
    axes.imshow(photo, aspect="equal")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def _segmentation(axes: Axes, highlight: Highlight) -> None:
    if highlight.seg_map is None:
        _absent(axes, highlight.photo, "segmentation: not read")
        return
    colours = class_colours(len(highlight.class_names))
    height, width = highlight.photo.shape[:2]
    axes.imshow(colours[highlight.seg_map], extent=(0, width, height, 0), interpolation="nearest")
    axes.set_title("segmentation", fontsize=9)
    axes.set_axis_off()
    numbers, counts = np.unique(highlight.seg_map[highlight.seg_map != VOID], return_counts=True)
    largest = numbers[np.argsort(-counts)][:SHOWN_CLASSES]
    patches = [Patch(color=colours[n], label=_short(highlight.class_names[n], 16)) for n in largest]
    axes.legend(handles=patches, fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=3, frameon=False)


def _semantic(axes: Axes, photo: np.ndarray, branch: Attention) -> None:
    if branch.semantic is None:
        _absent(axes, photo, f"{branch.title}: no VSeM")
        return
    weights = branch.semantic
    _picture(axes, photo, f"{branch.title}: VSeM {weights.min():.2f} to {weights.max():.2f}")
    strength = (weights - weights.min()) / (np.ptp(weights) or 1.0)
    height, width = photo.shape[:2]
    if branch.boxes is not None:
        for number in np.argsort(strength)[-SHOWN_REGIONS:]:
            x0, y0, x1, y1 = branch.boxes[number] * (width, height, width, height)
            line = {"edgecolor": hsv_to_rgb((0.15 * strength[number], 1, 1)), "linewidth": 0.6 + 2.2 * strength[number]}
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, **line))
    elif branch.grid_size is not None:
        heat = strength.reshape(branch.grid_size)
        axes.imshow(heat, extent=(0, width, height, 0), cmap="inferno", alpha=0.6, interpolation="nearest")


def _spatial(axes: Axes, photo: np.ndarray, branch: Attention) -> None:
    if branch.spatial is None:
        _absent(axes, photo, f"{branch.title}: no VSpM")
        return
    height, width = photo.shape[:2]
    _picture(axes, photo, f"{branch.title}: VSpM, peak {branch.spatial.max() * branch.spatial.size:.1f}x even")
    axes.imshow(branch.spatial, extent=(0, width, height, 0), cmap="inferno", alpha=0.65, interpolation="bilinear")


def _captions(axes: Axes, highlight: Highlight) -> None:
    axes.set_axis_off()
    axes.set_title(f"rank of the photo among {highlight.candidates:,}", fontsize=9)
    lines = [f"#{rank}  " + "\n".join(textwrap.wrap(text, 34)) for text, rank in highlight.captions]
    # parse_math: a dollar sign in a caption is a dollar sign
    axes.text(0, 0.95, "\n\n".join(lines), fontsize=8, va="top", transform=axes.transAxes, parse_math=False)


def _absent(axes: Axes, photo: np.ndarray, title: str) -> None:
    _picture(axes, np.full_like(photo, 235), title)


def _short(text: str, length: int = 24) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def best_and_worst(captions: Mapping[str, int]) -> list[tuple[str, int]]:
    """The two captions that show most: best ranked and worst ranked.

    >>> best_and_worst({"a dog": 3, "a cat": 9, "a cow": 1})
    [('a cow', 1), ('a cat', 9)]
    """
    ordered = sorted(captions.items(), key=lambda item: item[1])
    return ordered if len(ordered) < 2 else [ordered[0], ordered[-1]]
