"""Sample photos of a shard folder, with boxes and segmentation drawn in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from threeshnet.errors import DataError
from threeshnet.evaluation.panels import CLASS_COLOURS, NO_CLASS, OTHER_CLASS, class_label
from threeshnet.features.photos import open_photo
from threeshnet.records import VOID, ImageArrays
from threeshnet.reports.charts import data_uri
from threeshnet.shards.manifest import Manifest
from threeshnet.shards.reader import ShardedSplit

SIDE = 480  # pixels of the longer side: twice what a page shows
THUMBNAIL = 240
SHOWN_BOXES = 8  # with the highest scores; more hide each other
NAMED_CLASSES = 5  # below a segmentation
STRENGTH = 0.65  # of the class colours over the photo
CANVAS = (226, 226, 226)  # where there is no photo


class Named(NamedTuple):
    """A class below a segmentation."""

    colour: str
    name: str
    share: int  # per cent of the photo


class Sheet(NamedTuple):
    """One photo of the contact sheet; pictures are data URIs, empty where the shards have no such field."""

    id: str
    split: str
    file: str
    size: tuple[int, int]  # width, height in pixels; zeros where unknown
    caption: str
    captions: int
    regions: int
    with_photo: bool
    boxes: str
    segmentation: str
    classes: list[Named]


def contact_sheet(folder: Path, manifest: Manifest, *, photos: int, seed: int) -> list[Sheet]:
    """`photos` images that `seed` chooses among all splits, in the order of the shards."""
    counts = [split.images for split in manifest.splits.values()]
    total = sum(counts)
    chosen = np.sort(np.random.default_rng(seed).choice(total, min(photos, total), replace=False))
    found: list[Sheet] = []
    for name, start, count in zip(manifest.splits, np.cumsum([0, *counts]), counts, strict=False):
        rows = chosen[(chosen >= start) & (chosen < start + count)] - start
        if len(rows):
            found += _sheets(ShardedSplit(folder, name), rows)
    return found


def thumbnail(file: Path) -> str:
    """A small picture of a photo; empty when it cannot be read."""
    try:
        return data_uri(_reduced(open_photo(file), THUMBNAIL))
    except DataError:
        return ""


def draw_boxes(photo: Image.Image, boxes: np.ndarray, scores: np.ndarray, names: Sequence[str] = ()) -> Image.Image:
    """The photo with the boxes [n, 4] of the highest scores [n], the best one on top, and what each is called."""
    drawn = photo.copy()
    pen = ImageDraw.Draw(drawn)
    best = np.argsort(-scores, kind="stable")[:SHOWN_BOXES]
    for rank in range(len(best) - 1, -1, -1):
        x0, y0, x1, y1 = (boxes[best[rank]] * np.tile([drawn.width - 1, drawn.height - 1], 2)).round().tolist()
        pen.rectangle((x0, y0, x1, y1), outline="black", width=5)  # its rim shows on every ground
        left, top = min(x0 + 1, x1), min(y0 + 1, y1)
        inner = (left, top, max(x1 - 1, left), max(y1 - 1, top))  # of a box one pixel high as well
        pen.rectangle(inner, outline=CLASS_COLOURS[rank % len(CLASS_COLOURS)], width=3)
        if names:
            pen.text((x0 + 5, y0 + 4), names[int(best[rank])], fill="white", stroke_fill="black", stroke_width=2)
    return drawn


def draw_segmentation(photo: Image.Image, seg_map: np.ndarray, colours: dict[int, str]) -> Image.Image:
    """The class map [64, 64] in `colours` of its numbers over the greyed photo."""
    table = np.array([ImageColor.getrgb(colours.get(number, OTHER_CLASS)) for number in range(VOID + 1)], np.uint8)
    cells = Image.fromarray(table[seg_map]).resize(photo.size, Image.Resampling.NEAREST)
    return Image.blend(photo.convert("L").convert("RGB"), cells, STRENGTH)


def largest_classes(seg_map: np.ndarray) -> list[tuple[int, float]]:
    """Number and share of the photo of the classes in a map [64, 64], the largest first, without void."""
    numbers, counts = np.unique(seg_map, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(int(numbers[n]), float(counts[n] / seg_map.size)) for n in order if numbers[n] != VOID]


def _sheets(split: ShardedSplit, rows: np.ndarray) -> Iterator[Sheet]:
    sizes = split.sizes()
    arrays = split.read(rows, fields=[name for name in split.manifest.fields if name != "grid"])
    for position, row in enumerate(rows.tolist()):
        width, height = map(int, sizes[row])
        yield _sheet(split, row, (width, height), arrays, position)
    split.close()


def _sheet(split: ShardedSplit, row: int, size: tuple[int, int], arrays: ImageArrays, position: int) -> Sheet:
    photo, there = _photo(split.image_path(row), size)
    boxes, segmentation, classes = "", "", []
    if arrays.boxes is not None and arrays.scores is not None:
        names, labels = split.manifest.label_names, () if arrays.labels is None else arrays.labels[position]
        called = [names[int(label)] if label < len(names) else str(label) for label in labels]
        boxes = data_uri(draw_boxes(photo, arrays.boxes[position], arrays.scores[position], called))
    elif there:
        boxes = data_uri(photo)
    if arrays.seg_map is not None:
        largest = largest_classes(arrays.seg_map[position])
        colours = {number: CLASS_COLOURS[n] for n, (number, _) in enumerate(largest[: len(CLASS_COLOURS)])}
        segmentation = data_uri(draw_segmentation(photo, arrays.seg_map[position], colours | {VOID: NO_CLASS}))
        classes = _named(largest, colours, split.manifest.class_names)
    owned = np.flatnonzero(split.owners == row)
    return Sheet(
        id=split.image_ids[row],
        split=split.name,
        file=split.image_files[row],
        size=size,
        caption=split.caption_texts[int(owned[0])] if len(owned) else "",
        captions=len(owned),
        regions=0 if arrays.regions is None else len(arrays.regions[position]),
        with_photo=there,
        boxes=boxes,
        segmentation=segmentation,
        classes=classes,
    )


def _named(largest: Sequence[tuple[int, float]], colours: dict[int, str], names: Sequence[str]) -> list[Named]:
    shown = largest[:NAMED_CLASSES]
    named = [(n, class_label(names[n], 24) if names else f"class {n}", round(100 * share)) for n, share in shown]
    return [Named(colours[number], name, share) for number, name, share in named]


def _photo(file: Path, size: tuple[int, int]) -> tuple[Image.Image, bool]:
    """The photo, reduced, and whether it was there; else an empty canvas of its shape."""
    try:
        return _reduced(open_photo(file), SIDE), True
    except DataError:
        width, height = size if min(size) > 0 else (1, 1)
        scale = SIDE / max(width, height)
        return Image.new("RGB", (max(1, round(width * scale)), max(1, round(height * scale))), CANVAS), False


def _reduced(photo: Image.Image, side: int) -> Image.Image:
    scale = side / max(photo.size)
    width, height = (max(1, round(length * scale)) for length in photo.size)
    return photo.resize((width, height), Image.Resampling.LANCZOS)
