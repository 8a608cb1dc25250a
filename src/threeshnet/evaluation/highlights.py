"""What the guidance looked at: photo, segmentation, VSeM weights, VSpM map, and captions (3SHNet, figure 5)."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from threeshnet.evaluation import panels
from threeshnet.files import replacing

DPI = 120
PANEL, GAP, MARGIN = 2.4, 0.15, 0.15  # inches: width of a panel, space between panels, space around all
ABOVE, BELOW, LINE = 0.3, 0.6, 0.19  # title of a panel, legend of a panel, line of a caption
TALLEST = 1.4  # height of a panel to its width
RANK, LETTERS = 0.5, 13  # inches for the column of ranks; letters of a 9-point caption in an inch

Panel = Callable[[Axes, Axes], None]  # draws into the axes of the picture and those of the strip below


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


def draw(highlight: Highlight, file: Path) -> None:
    """Write one PNG: the panels in rows, one row for each branch when there are several, and the captions below."""
    rows = panel_rows(highlight)
    height, width = highlight.photo.shape[:2]
    picture = PANEL * min(height / width, TALLEST)
    wide = 2 * MARGIN + max(3, *map(len, rows)) * (PANEL + GAP) - GAP  # captions want the room of three panels
    lines = caption_lines(highlight, round((wide - 2 * MARGIN - RANK) * LETTERS))
    high = len(rows) * (ABOVE + picture + BELOW) + len(lines) * LINE + 2 * MARGIN
    figure = Figure(figsize=(wide, high), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for number, row in enumerate(rows):
        bottom = high - (number + 1) * (ABOVE + picture + BELOW)
        for column, panel in enumerate(row):
            left = MARGIN + column * (PANEL + GAP)
            above = figure.add_axes((left / wide, (bottom + BELOW) / high, PANEL / wide, picture / high))
            below = figure.add_axes((left / wide, bottom / high, PANEL / wide, BELOW / high))
            below.set_axis_off()
            panel(above, below)
    for number, (rank, text) in enumerate(lines):
        y = (MARGIN + (len(lines) - number) * LINE) / high
        style: dict[str, Any] = {"fontsize": 9, "va": "top", "parse_math": False}  # a dollar sign is a dollar sign
        figure.text((MARGIN + RANK - 0.1) / wide, y, rank, ha="right", **style)
        figure.text((MARGIN + RANK) / wide, y, text, **style)
    with replacing(file) as partial:
        figure.savefig(partial, format="png")


def panel_rows(highlight: Highlight) -> list[list[Panel]]:
    """All panels in one row, or with several branches a row for each, the photo and the segmentation before them."""
    photo, seg_map, names = highlight.photo, highlight.seg_map, highlight.class_names
    whole: list[Panel] = [lambda above, _: panels.picture(above, photo, "photo")]
    if seg_map is not None:
        whole.append(lambda above, below: panels.segmentation(above, below, photo, seg_map, names))
    guided = [branch_panels(photo, branch) for branch in highlight.branches]
    if len(guided) < 2 or not any(guided):
        return [[*whole, *(panel for row in guided for panel in row)]]
    return [whole[number : number + 1] + row for number, row in enumerate(guided)]


def branch_panels(photo: np.ndarray, branch: Attention) -> list[Panel]:
    """The panels of what a branch has."""
    _, boxes, grid, weights, places = branch
    found: list[Panel] = []
    if weights is not None and boxes is not None:
        found.append(lambda above, below: panels.region_weights(above, below, photo, weights, boxes))
    elif weights is not None and grid is not None:
        found.append(lambda above, below: panels.cell_weights(above, below, photo, weights, grid))
    if places is not None:
        found.append(lambda above, below: panels.place_attention(above, below, photo, places, branch.title))
    return found


def caption_lines(highlight: Highlight, letters: int) -> list[tuple[str, str]]:
    """The captions, broken, each with the rank of the photo at its first line."""
    count = f"{highlight.candidates:,}"
    lines = [("rank", f"of this photo among {count}, asked by two of its captions  ({highlight.image_id})")]
    for text, rank in highlight.captions:
        first, *others = textwrap.wrap(text, letters) or [""]
        lines += [(f"{rank:,}", first), *(("", other) for other in others)]
    return lines


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
