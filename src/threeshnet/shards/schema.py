"""What a shard holds: one table of its arrays, which drives the writer, the reader, `verify` and the documentation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import h5py
import numpy as np
from pydantic import ConfigDict, Field, model_validator

from threeshnet.records import MAP_SIDE, SCENE_SIDE, VOID, ImageArrays

FORMAT = 1
FIELDS = ("region", "grid", "seg")
MAX_REGIONS = 36
BEYOND = 2**31  # rows are counted in int32
FEATURE_TYPES = ("float16", "float32")
TEXT, FEATURES = "UTF-8", " or ".join(FEATURE_TYPES)
IMAGES, CAPTIONS, REGIONS, OFFSETS = "n", "m", "r", "n+1"  # rows of an array: images, captions, regions, and one more


class StoredArray(NamedTuple):
    """One array of a shard."""

    key: str  # its name in the HDF5 file
    rows: str
    row: tuple[str | int, ...]  # shape of a row; letters stand for sizes of the layout
    dtype: str  # TEXT, FEATURES or the name of a NumPy type
    meaning: str
    checks: tuple[str, ...] = ()  # what `verify` checks in each row, by the names in `row_checks`
    needed: bool = True  # in every shard, or in every shard that has its field
    chunk: int = 0  # rows of a chunk of large arrays, which compression applies to; 0: as many as fill 64 KiB

    @property
    def group(self) -> str:
        """`image`, `caption`, or the field that it belongs to."""
        return self.key.partition("/")[0]


SCENE, MAP = (SCENE_SIDE, SCENE_SIDE), (MAP_SIDE, MAP_SIDE)
REGIONS_OF = f"regions of all images one after the other, 1 to {MAX_REGIONS} an image"
BOXES = "x1, y1, x2, y2 in [0, 1] of the photo; not in published arrays without boxes"
LABELS, CELLS = "class in the detector's table (`label_names`)", "cells row by row; attributes H and W"
SEMANTIC = "probability of each class, pooled over areas"
TABLE = (
    StoredArray("image/id", IMAGES, (), TEXT, "stable id of the photo, unique in the folder"),
    StoredArray("image/file", IMAGES, (), TEXT, "its file, relative to `raw` of the manifest"),
    StoredArray("image/size", IMAGES, (2,), "int32", "width and height in pixels, 0 where unknown", ("size",), False),
    StoredArray("image/sha256", IMAGES, (32,), "uint8", "sha256 of the file", needed=False),
    StoredArray("image/perceptual_hash", IMAGES, (), "uint64", "hash of the decoded photo", needed=False),
    StoredArray("caption/text", CAPTIONS, (), TEXT, "the sentence"),
    StoredArray("caption/owner", CAPTIONS, (), "int32", "row of its image in this shard"),
    StoredArray("caption/tag", CAPTIONS, (), TEXT, "kind of the sentence, or empty", needed=False),
    # A chunk is about one image, so that a random read touches one or two.
    StoredArray("region/features", REGIONS, ("Dr",), FEATURES, REGIONS_OF, ("finite", "not zero"), chunk=36),
    StoredArray("region/offsets", OFFSETS, (), "int64", "row of each image's first region, then the number of regions"),
    StoredArray("region/boxes", REGIONS, (4,), "float32", BOXES, ("box",), needed=False),
    StoredArray("region/scores", REGIONS, (), "float32", "confidence of the detector", ("finite",), needed=False),
    StoredArray("region/labels", REGIONS, (), "int16", LABELS, ("label",), needed=False),
    StoredArray("grid/features", IMAGES, ("H*W", "Dg"), FEATURES, CELLS, ("finite", "not zero"), chunk=1),
    StoredArray("seg/semantic", IMAGES, ("C", *SCENE), FEATURES, SEMANTIC, ("finite", "probability"), chunk=1),
    StoredArray("seg/map", IMAGES, MAP, "uint8", f"class of each cell, {VOID} is void", ("class",), chunk=1),
    StoredArray("seg/categories", IMAGES, ("C",), "uint8", "1 for each class that occurs", ("flag",)),
)
ARRAYS = {array.key: array for array in TABLE}
FINGERPRINT_KEYS = ("image/sha256", "image/perceptual_hash")  # of photos that were decoded
READ_BY_MODELS = {
    "region": ("region/features",),
    "grid": ("grid/features",),
    "seg": ("seg/semantic", "seg/map", "seg/categories"),
}
# The entries of ImageArrays, in the order in which a shard gets them.
STORED_AS = {
    "regions": "region/features",
    "boxes": "region/boxes",
    "scores": "region/scores",
    "labels": "region/labels",
    "grid": "grid/features",
    "seg_semantic": "seg/semantic",
    "seg_map": "seg/map",
    "seg_categories": "seg/categories",
}
Size = Annotated[int, Field(ge=1, lt=BEYOND)]


@dataclass(frozen=True)
class Layout:
    """Sizes and types that all shards of a folder share; None for what they do not have."""

    __pydantic_config__: ClassVar = ConfigDict(strict=True, extra="forbid")

    region_width: Size | None = None  # Dr
    grid_width: Size | None = None  # Dg
    grid_size: tuple[Size, Size] | None = None  # H, W
    classes: Annotated[int, Field(ge=1, le=VOID)] | None = None  # C
    boxes: bool = False  # whether regions have boxes and scores
    labels: bool = False  # whether regions have the class that their detector saw
    dtypes: dict[Literal["region", "grid", "seg"], Literal["float16", "float32"]] = field(default_factory=dict)

    @model_validator(mode="after")
    def _sizes_of_its_fields(self) -> Self:
        """For a layout that is read from a file."""
        sizes = {"region_width": "region", "grid_width": "grid", "grid_size": "grid", "classes": "seg"}
        for key, name in sizes.items():
            if (name in self.dtypes) != (getattr(self, key) is not None):
                raise ValueError(f"{key}={getattr(self, key)} with the fields {', '.join(self.dtypes) or 'none'}")
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        """Those of region, grid, seg that there are."""
        return tuple(name for name in FIELDS if name in self.dtypes)

    def row_shape(self, array: StoredArray) -> tuple[int, ...]:
        """Shape of a row of an array; 0 for sizes that there are not."""
        cells = math.prod(self.grid_size) if self.grid_size else 0
        sizes = {"Dr": self.region_width, "Dg": self.grid_width, "H*W": cells, "C": self.classes}
        return tuple(size if isinstance(size, int) else sizes[size] or 0 for size in array.row)

    def differences(self, other: Layout) -> list[str]:
        """A line for each entry in which `other` is not like this one."""
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return [f"{name}: {there} where {here} was expected" for name, here, there in pairs if here != there]


def row_types(layout: Layout) -> Mapping[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of a row of each array of numbers that shards of this layout may have."""
    stored: dict[Any, Any] = layout.dtypes
    there = [array for array in TABLE if array.dtype != TEXT and array.group in ("image", "caption", *stored)]
    return {
        array.key: (layout.row_shape(array), np.dtype(stored[array.group] if array.dtype == FEATURES else array.dtype))
        for array in there
    }


def arrays_by_key(arrays: ImageArrays) -> Iterator[tuple[StoredArray, Any]]:
    """The arrays of images that there are, each with its line of the table."""
    for name, key in STORED_AS.items():
        if (values := getattr(arrays, name)) is not None:
            yield ARRAYS[key], values


def needed_keys(layout: Layout) -> list[str]:
    """The arrays that every shard of this layout has."""
    return [array.key for array in TABLE if array.needed and array.group in ("image", "caption", *layout.dtypes)]


def expected_shapes(layout: Layout, *, images: int, captions: int, regions: int) -> Mapping[str, tuple[int, ...]]:
    """The shape of every array that a shard may have, whatever its fields."""
    rows = {IMAGES: images, CAPTIONS: captions, REGIONS: regions, OFFSETS: images + 1}
    return {array.key: (rows[array.rows], *layout.row_shape(array)) for array in TABLE}


def documentation() -> str:
    """The table of arrays in Markdown, for the reference."""
    lines = ["| Array | Shape | Type | Meaning |", "|---|---|---|---|"]
    for array in TABLE:
        shape = ", ".join(map(str, (array.rows, *array.row)))
        name = f"`{array.key}`" if array.needed else f"`{array.key}` (optional)"
        lines.append(f"| {name} | ({shape}) | {array.dtype} | {array.meaning} |")
    legend = "n images, m captions, r regions, H x W cells of the grid, C classes, Dr and Dg widths of the features."
    return "\n".join([*lines, "", legend, ""])


def layout_of_arrays(arrays: ImageArrays, grid_size: tuple[int, int] | None) -> Layout:
    """The layout that a first batch of arrays sets; `grid_size` is H, W of its grid."""
    dtypes: Any = {}
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
    dtypes: Any = {}
    sizes: dict[str, Any] = {}
    for key, size, axis in (
        ("region/features", "region_width", 1),
        ("grid/features", "grid_width", 2),
        ("seg/semantic", "classes", 1),
    ):
        if key in shard:
            dataset = array_of(shard, key)
            dtypes[ARRAYS[key].group] = str(dataset.dtype)
            sizes[size] = int(dataset.shape[axis]) if dataset.ndim > axis else None
    if "grid" in dtypes:
        sides = [array_of(shard, "grid/features").attrs.get(side) for side in "HW"]
        sizes["grid_size"] = tuple(map(int, sides)) if all(isinstance(side, np.integer) for side in sides) else None
    return Layout(boxes="region/boxes" in shard, labels="region/labels" in shard, dtypes=dtypes, **sizes)


def array_of(shard: h5py.File, key: str) -> Any:
    """A dataset under a name that is there."""
    return shard[key]
