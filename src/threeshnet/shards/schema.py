"""What a shard holds: names, shapes and types of its HDF5 fields, and what makes arrays fit to be written.

`image/{id,file,size,sha256,perceptual_hash}`, `caption/{text,owner,tag}`,
`region/{features,offsets,boxes,scores,labels}`, `grid/features`, `seg/{semantic,map,categories}`. All arrays of a
folder share one `Layout`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from threeshnet.errors import Problems
from threeshnet.records import MAP_SIDE, SCENE_SIDE, VOID, ImageArrays

FORMAT = 1
FIELDS = ("region", "grid", "seg")
MAX_REGIONS = 36
FEATURE_TYPES = ("float16", "float32")
IMAGE_KEYS = ("image/id", "image/file", "image/size")
FINGERPRINT_KEYS = ("image/sha256", "image/perceptual_hash")  # [n, 32] u8, [n] u64: where photos were decoded
CAPTION_KEYS = ("caption/text", "caption/owner", "caption/tag")
REQUIRED = {
    "region": ("region/features", "region/offsets"),
    "grid": ("grid/features",),
    "seg": ("seg/semantic", "seg/map", "seg/categories"),
}


@dataclass(frozen=True)
class Layout:
    """Widths and types that all shards of a folder share; None for what they do not have."""

    region_width: int | None = None  # Dr
    grid_width: int | None = None  # Dg
    grid_size: tuple[int, int] | None = None  # H, W
    classes: int | None = None  # C
    boxes: bool = False  # whether regions have boxes and scores
    labels: bool = False  # whether regions have the class that their detector saw
    dtypes: dict[str, str] = field(default_factory=dict)  # float16 or float32 of each field there is

    @property
    def fields(self) -> tuple[str, ...]:
        """Those of region, grid, seg that there are."""
        return tuple(name for name in FIELDS if name in self.dtypes)

    def differences(self, other: Layout) -> list[str]:
        """A line for each entry in which `other` is not like this one."""
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return [f"{name}: {there} where {here} was expected" for name, here, there in pairs if here != there]


def layout_of_arrays(arrays: ImageArrays, grid_size: tuple[int, int] | None) -> Layout:
    """The layout that a first batch of arrays founds; `grid_size` is H, W of its grid."""
    dtypes = {}
    if arrays.regions:
        dtypes["region"] = str(arrays.regions[0].dtype)
    if arrays.grid is not None:
        dtypes["grid"] = str(arrays.grid.dtype)
    if arrays.seg_semantic is not None:
        dtypes["seg"] = str(arrays.seg_semantic.dtype)
    return Layout(
        region_width=arrays.regions[0].shape[-1] if arrays.regions else None,
        grid_width=None if arrays.grid is None else arrays.grid.shape[-1],
        grid_size=None if arrays.grid is None else grid_size,
        classes=None if arrays.seg_semantic is None else arrays.seg_semantic.shape[1],
        boxes=arrays.boxes is not None,
        labels=arrays.labels is not None,
        dtypes=dtypes,
    )


def layout_of_file(shard: h5py.File) -> Layout:
    """The layout of an open shard; None for what is not as it should be."""
    dtypes, known = {}, {}
    if (regions := _dataset(shard, "region/features")) is not None:
        dtypes["region"], known["region_width"] = str(regions.dtype), _length(regions, 1)
    if (grid := _dataset(shard, "grid/features")) is not None:
        dtypes["grid"], known["grid_width"] = str(grid.dtype), _length(grid, 2)
        sides = [grid.attrs.get(side) for side in "HW"]
        known["grid_size"] = tuple(map(int, sides)) if all(isinstance(side, np.integer) for side in sides) else None
    if (semantic := _dataset(shard, "seg/semantic")) is not None:
        dtypes["seg"], known["classes"] = str(semantic.dtype), _length(semantic, 1)
    return Layout(boxes="region/boxes" in shard, labels="region/labels" in shard, dtypes=dtypes, **known)


def _length(dataset: Any, axis: int) -> int | None:
    return int(dataset.shape[axis]) if dataset.ndim > axis else None


def _dataset(shard: h5py.File, key: str) -> Any:
    return shard.get(key)


def row_types(layout: Layout) -> Mapping[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of a row of each data set of numbers that shards of this layout have."""
    width, depth, classes = layout.region_width or 0, layout.grid_width or 0, layout.classes or 0
    height, columns = layout.grid_size or (0, 0)
    stored = {name: np.dtype(dtype) for name, dtype in layout.dtypes.items()}
    found: dict[str, tuple[tuple[int, ...], np.dtype]] = {"image/size": ((2,), np.dtype(np.int32))}
    if "region" in stored:
        found["region/features"] = (width,), stored["region"]
        found["region/boxes"], found["region/scores"] = ((4,), np.dtype(np.float32)), ((), np.dtype(np.float32))
        found["region/labels"] = (), np.dtype(np.int16)
    if "grid" in stored:
        found["grid/features"] = (height * columns, depth), stored["grid"]
    if "seg" in stored:
        found["seg/semantic"] = (classes, SCENE_SIDE, SCENE_SIDE), stored["seg"]
        found["seg/map"] = (MAP_SIDE, MAP_SIDE), np.dtype(np.uint8)
        found["seg/categories"] = (classes,), np.dtype(np.uint8)
    return found


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
    together = {"boxes": arrays.boxes, "scores": arrays.scores}
    if (arrays.boxes is None) != (arrays.scores is None):
        yield f"boxes and scores come together: only one of {', '.join(together)} is given"
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
