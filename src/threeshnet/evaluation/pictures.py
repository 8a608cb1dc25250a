"""Pictures of the guidance: photo, segmentation, VSeM weights, VSpM map, and captions (3SHNet, figure 5)."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from threeshnet.batches.collate import collate_images
from threeshnet.encoders.hybrid import HybridEncoder, is_kernel
from threeshnet.encoders.image import ImageEncoder
from threeshnet.encoders.model import RetrievalModel
from threeshnet.errors import DataError
from threeshnet.evaluation import panels
from threeshnet.features.photos import open_photo
from threeshnet.files import replacing
from threeshnet.metrics.ranks import rank_similarity
from threeshnet.metrics.similarity import EmbeddingSimilarity
from threeshnet.records import ImageArrays
from threeshnet.runs.run import Run
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.encoding import Embeddings

PHOTO_SIDE = 480  # pixels; photos are drawn smaller than this
BLANK = 224  # side of the grey stand-in for a missing photo
DPI = 120
PANEL, GAP, MARGIN = 2.4, 0.15, 0.15  # inches: width of a panel, space between panels, space around all
ABOVE, BELOW, LINE = 0.3, 0.6, 0.19  # title of a panel, legend of a panel, line of a caption
TALLEST = 1.4  # height of a panel to its width
RANK, LETTERS = 0.5, 13  # inches for the column of ranks; letters of a 9-point caption in an inch

Panel = Callable[[Axes, Axes], None]  # draws into the axes of the picture and those of the strip below


class Attention(NamedTuple):
    """The attention of one branch in one image; None for guidance that the model lacks."""

    title: str  # kind of its tokens: regions, cells
    boxes: np.ndarray | None  # [n, 4] xyxy in [0, 1] of region tokens
    grid_size: tuple[int, int] | None  # rows and columns of grid tokens
    semantic: np.ndarray | None  # [n] VSeM weights
    spatial: np.ndarray | None  # [64, 64] VSpM attention, weighted over the tokens


class Highlight(NamedTuple):
    """One image with everything that is drawn for it."""

    image_id: str
    photo: np.ndarray  # [h, w, 3] uint8
    seg_map: np.ndarray | None  # [64, 64] class numbers
    class_names: Sequence[str]
    branches: Sequence[Attention]
    captions: Sequence[tuple[str, int]]  # sentence and the rank of this image for it, from 1
    candidates: int  # images that were ranked


def draw(highlight: Highlight, file: Path) -> None:
    """Write one PNG: the panels in rows, one row for each branch when there are several, and the captions below."""
    rows, shape = panel_rows(highlight), highlight.photo.shape
    figure = laid_out(rows, shape[0] / shape[1], lambda letters: caption_lines(highlight, letters))
    with replacing(file) as partial:
        figure.savefig(partial, format="png")


def laid_out(rows: Sequence[Sequence[Panel]], ratio: float, lines_of: Callable[[int], list[tuple[str, str]]]) -> Figure:
    """Rows of panels whose pictures have a `ratio` of height to width, and lines of text below.

    `lines_of` is given the letters that fit a line, and returns pairs of a number and a text.
    """
    picture = PANEL * min(ratio, TALLEST)
    wide = 2 * MARGIN + max(3, *map(len, rows)) * (PANEL + GAP) - GAP  # captions want the room of three panels
    lines = lines_of(round((wide - 2 * MARGIN - RANK) * LETTERS))
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
    return figure


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
    _, boxes, grid, weights, attention = branch
    shown: list[Panel] = []
    if weights is not None and boxes is not None:
        shown.append(lambda above, below: panels.region_weights(above, below, photo, weights, boxes))
    elif weights is not None and grid is not None:
        shown.append(lambda above, below: panels.cell_weights(above, below, photo, weights, grid))
    if attention is not None:
        shown.append(lambda above, below: panels.place_attention(above, below, photo, attention, branch.title))
    return shown


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


def draw_highlights(
    model: RetrievalModel, split: ShardedSplit, embeddings: Embeddings, *, fields: Sequence[str], run: Run, count: int
) -> dict[int, Path]:
    """Draw PNGs of `count` images spread evenly over the split; returns the files by the number of the image."""
    numbers = spread_evenly(split.images, count)
    ranks = rank_similarity(EmbeddingSimilarity(*embeddings), split.owners).t2i
    arrays = split.read(numbers, fields)
    files = {}
    for row, number in enumerate(numbers):
        own = np.flatnonzero(split.owners == number)
        captions = {split.caption_texts[caption]: int(ranks[caption]) for caption in own.tolist()}
        highlight = Highlight(
            image_id=split.image_ids[number],
            photo=_photo(split.image_path(number)),
            seg_map=None if arrays.seg_map is None else arrays.seg_map[row],
            class_names=split.manifest.class_names or [f"class {n}" for n in range(split.manifest.classes or 0)],
            branches=list(_branches(model, arrays, row, split.manifest.grid_size)),
            captions=best_and_worst(captions),
            candidates=split.images,
        )
        files[number] = run.picture(split.name, number)
        draw(highlight, files[number])
    return files


def spread_evenly(images: int, count: int) -> list[int]:
    """The numbers of `count` images, spread evenly over all.

    >>> spread_evenly(10, 4), spread_evenly(2, 4)
    ([0, 3, 6, 9], [0, 1])
    """
    return np.unique(np.linspace(0, images - 1, num=min(count, images), dtype=int)).tolist()


def _branches(
    model: RetrievalModel, arrays: ImageArrays, row: int, grid_size: tuple[int, int] | None
) -> Iterator[Attention]:
    encoder = model.image_encoder
    branches = encoder.branches if isinstance(encoder, HybridEncoder) else {"": encoder}
    parts: Any = (None if part is None else part[row : row + 1] for part in arrays)
    images = collate_images(ImageArrays(*parts)).to(model.device)
    for branch in branches.values():
        if is_kernel(branch):
            continue
        assert isinstance(branch, ImageEncoder)
        with torch.inference_mode():
            attention = {name: value[0].float().cpu().numpy() for name, value in branch.highlights(images).items()}
        weights = attention.get("semantic")
        of_regions = branch.source == "regions"
        yield Attention(
            title="regions" if of_regions else "cells",
            boxes=arrays.boxes[row] if of_regions and arrays.boxes is not None else None,
            grid_size=None if of_regions else grid_size,
            semantic=weights,
            spatial=attention_of_tokens(attention["spatial"], weights) if "spatial" in attention else None,
        )


def _photo(file: Path) -> np.ndarray:
    """The photo [h, w, 3], or a grey square where it cannot be read: synthetic data have no photos."""
    try:
        photo = open_photo(file)
    except DataError:
        return np.full((BLANK, BLANK, 3), 200, np.uint8)
    photo.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
    return np.asarray(photo)
