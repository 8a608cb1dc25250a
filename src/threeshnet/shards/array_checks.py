"""What keeps the arrays of images from being written into a shard."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from threeshnet.errors import Problems
from threeshnet.records import MAP_SIDE, SCENE_SIDE, VOID, ImageArrays
from threeshnet.shards.schema import FEATURE_TYPES, MAX_REGIONS, Layout, layout_of_arrays


def faults(arrays: ImageArrays, layout: Layout, names: list[str]) -> Problems:
    """What keeps the arrays of these images (`names` are their ids) from being written under this layout."""
    problems = Problems("arrays that do not fit the shard")
    found = layout_of_arrays(arrays, layout.grid_size)
    problems.extend(layout.differences(found))
    problems.extend(
        f"{name} of type {dtype}; expected {' or '.join(FEATURE_TYPES)}"
        for name, dtype in found.dtypes.items()
        if dtype not in FEATURE_TYPES
    )
    if not problems:
        problems.extend(_count_faults(arrays, len(names)))
    if not problems:
        problems.extend(_region_faults(arrays, layout, names))
        problems.extend(_grid_faults(arrays, layout))
        problems.extend(_segmentation_faults(arrays, layout, names))
    return problems


def _count_faults(arrays: ImageArrays, images: int) -> Iterator[str]:
    for name, value in arrays._asdict().items():
        if value is not None and len(value) != images:
            yield f"{name}: {len(value)} entries for {images} images"
    if (arrays.boxes is None) != (arrays.scores is None):
        yield "boxes and scores come together: one of them is missing"
    segmentation = (arrays.seg_semantic, arrays.seg_map, arrays.seg_categories)
    if any(part is None for part in segmentation) and any(part is not None for part in segmentation):
        yield "seg_semantic, seg_map and seg_categories come together: one of them is missing"


def _region_faults(arrays: ImageArrays, layout: Layout, names: list[str]) -> Iterator[str]:
    for row, regions in enumerate(arrays.regions or ()):
        count = len(regions)
        if not 1 <= count <= MAX_REGIONS:
            yield f"image {names[row]!r}: {count} regions; an image needs 1 to {MAX_REGIONS}"
        elif regions.shape != (count, layout.region_width) or str(regions.dtype) != layout.dtypes["region"]:
            yield (
                f"image {names[row]!r}: regions of shape {regions.shape}, {regions.dtype}; "
                f"expected ({count}, {layout.region_width}), {layout.dtypes['region']}"
            )
        elif not np.isfinite(regions).all():
            yield f"image {names[row]!r}: region features that are not finite (float16 ends at 65504)"
        elif arrays.boxes is not None and arrays.scores is not None:
            yield from _box_faults(arrays.boxes[row], arrays.scores[row], count, names[row])
        if arrays.labels is not None and arrays.labels[row].shape != (count,):
            yield f"image {names[row]!r}: labels {arrays.labels[row].shape} for {count} regions"


def _box_faults(boxes: np.ndarray, scores: np.ndarray, count: int, name: str) -> Iterator[str]:
    if boxes.shape != (count, 4) or scores.shape != (count,):
        yield f"image {name!r}: boxes {boxes.shape} and scores {scores.shape} for {count} regions"
    elif (boxes < 0).any() or (boxes > 1).any() or (boxes[:, :2] > boxes[:, 2:]).any():
        yield f"image {name!r}: boxes must be x1, y1, x2, y2 in [0, 1] of the photo with x1 <= x2 and y1 <= y2"


def _grid_faults(arrays: ImageArrays, layout: Layout) -> Iterator[str]:
    if arrays.grid is None or layout.grid_size is None:
        return
    height, width = layout.grid_size
    if arrays.grid.shape[1] != height * width:
        yield f"grid of {arrays.grid.shape[1]} cells; H={height} and W={width} make {height * width}"
    if not np.isfinite(arrays.grid).all():
        yield "grid features that are not finite (float16 ends at 65504)"


def _segmentation_faults(arrays: ImageArrays, layout: Layout, names: list[str]) -> Iterator[str]:
    if arrays.seg_semantic is None or arrays.seg_map is None or arrays.seg_categories is None:
        return
    images, classes = len(names), layout.classes or 0
    if classes > VOID:
        yield f"{classes} classes; the map counts them in 8 bits and keeps {VOID} for void, so {VOID} is the most"
    shapes = {
        "seg_semantic": (arrays.seg_semantic.shape, (images, classes, SCENE_SIDE, SCENE_SIDE)),
        "seg_map": (arrays.seg_map.shape, (images, MAP_SIDE, MAP_SIDE)),
        "seg_categories": (arrays.seg_categories.shape, (images, classes)),
    }
    wrong = [f"{name}: {found}; expected {want}" for name, (found, want) in shapes.items() if found != want]
    yield from wrong
    if wrong:
        return
    outside = (arrays.seg_map >= classes) & (arrays.seg_map != VOID)
    for row in np.flatnonzero(outside.any(axis=(1, 2))):
        number = int(arrays.seg_map[row][outside[row]][0])
        yield f"image {names[row]!r}: class {number} in seg/map; there are 0 to {classes - 1}, and {VOID} for void"
    if not np.isfinite(arrays.seg_semantic).all():
        yield "seg_semantic has numbers that are not finite"
