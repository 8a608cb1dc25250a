"""HDF5 files: arrays over all images with their ids, or one group or prefix an image.

- `features` [N, n, Dr] (or [N, C, H, W], a grid), or [R, Dr] with `pos_boxes` [N, 2] (first and end row) or
  `num_boxes`; beside them ids, boxes, sizes, scores under the names in `NAMES`. The files that
  bottom-up-attention-vqa writes keep their ids in a pickle outside: they have to be put in.
- `<id>/features`, `<id>/boxes`; or `<id>_features`, `<id>_boxes`, `<id>_cls_prob` (M2 Transformer), `<id>_grids`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from threeshnet.annotations.common import without_repr
from threeshnet.annotations.photo_files import files_below
from threeshnet.errors import ConfigError, DataError, Problems, one_of, some
from threeshnet.features.published.axes import check_axis, in_columns
from threeshnet.features.published.hdf5_rows import DAMAGED, Hdf5Rows
from threeshnet.features.published.image_files import CHANNELS
from threeshnet.features.published.layout import Entry, PublishedLayout, Request, Source, repeated

NAMES = {  # ours -> theirs
    "features": ("image_features", "features", "feats", "regions"),
    "ids": ("image_ids", "ids", "image_id", "img_ids"),
    "shares": ("spatial_features",),  # x1, y1, x2, y2, w, h as shares of the photo
    "boxes": ("image_bb", "boxes", "bboxes", "bbox"),
    "spans": ("pos_boxes",),
    "counts": ("num_boxes", "num_bbox", "num_regions"),
    "scores": ("scores", "objects_conf", "conf", "cls_prob"),
    "widths": ("image_w", "widths"),
    "heights": ("image_h", "heights"),
}
ONE_IMAGE = {  # arrays of one image below its id -> name in ImageArrays
    "features": "regions",
    "boxes": "boxes",
    "cls_prob": "scores",
    "scores": "scores",
    "grids": "grid",
}
SUFFIXES = (".h5", ".hdf5")


class Hdf5Layout(PublishedLayout):
    """One or several `.h5` or `.hdf5` files of one form."""

    name = "hdf5"
    holds = "*.hdf5 with features and ids, or <id>/features, or <id>_features"

    def __init__(self, *, regions: str | None = None, channels: str = "first") -> None:
        check_axis(regions)
        if channels not in CHANNELS:
            raise ConfigError(one_of("channels", channels, CHANNELS))
        self.regions, self.channels = regions, channels

    def missed(self, raw: Path) -> str:
        files = files_below(raw, SUFFIXES)
        if not files:
            return "no .h5 or .hdf5 file"
        if (raw / "manifest.json").is_file():
            return f"{raw} holds shards of ours already: a manifest.json is there"
        try:
            with h5py.File(files[0], "r", locking=False) as file:
                keys = [str(key) for key in file]
                return "" if _names(file) or _of_images(file) else f"{files[0].name} holds {some(keys, 5)}"
        except DAMAGED as error:
            return f"{files[0].name}: cannot be read ({error})"

    def open(self, raw: Path, request: Request, problems: Problems) -> Source:
        files = tuple(files_below(raw, SUFFIXES))
        parts = [self._opened(number, file, problems) for number, file in enumerate(files)]
        readers: list[Any] = [part.reader for part in parts]
        turned = {reader.turned for reader in readers}
        forms = {str((part.fields, part.boxes, part.scores, part.grid_size)) for part in parts}
        if len(turned) > 1:
            problems.add(f"{raw}: regions are rows in some of its files and columns in others")
        if len(forms) > 1:
            problems.add(f"{raw}: its files are of different forms (fields, boxes, scores, grid): {'; '.join(forms)}")
            return parts[0]
        first = parts[0]
        reader = readers[0]
        entries = tuple(entry for part in parts for entry in part.entries)
        if twice := list(repeated([entry.id for entry in entries])):
            problems.add(f"{raw}: {len(twice)} ids come a second time: {some(twice)}")
        return first._replace(
            raw=raw,
            entries=entries,
            reader=Hdf5Rows(files, reader.names, turned=reader.turned, channels=self.channels),
            files=files,
            dtypes={field: frozenset(kind for part in parts for kind in part.dtypes[field]) for field in first.fields},
        )

    def _opened(self, number: int, path: Path, problems: Problems) -> Source:
        """The images of one file."""
        try:
            with h5py.File(path, "r", locking=False) as file:
                names = _names(file)
                images = {} if names else _of_images(file)
                turned = self._in_columns(file, names, next(iter(images.values()), {}))
                read = _arrays(number, path, file, names, turned) if names else _images(number, path, file, images)
                features: Any = file[names["features"]] if names else None
                if names and features.ndim == 4:
                    read = read._replace(grid_size=_grid_size(features, self.channels))
        except DataError as error:
            problems.add(f"{path}: {error}")
            return Source("hdf5", path, (), (), Hdf5Rows((path,), {}), (path,), {})
        except DAMAGED as error:
            problems.add(f"{path}: cannot be read ({error})")
            return Source("hdf5", path, (), (), Hdf5Rows((path,), {}), (path,), {})
        remark = (f"{path.name} holds a region a column; it was turned",) if turned else ()
        own: Any = read.reader
        reader = Hdf5Rows((path,), own.names, turned=turned, channels=self.channels)
        return read._replace(reader=reader, remarks=(*read.remarks, *remark))

    def _in_columns(self, file: Any, names: Mapping[str, str], parts: Mapping[str, str]) -> bool:
        """Whether regions are columns, by boxes, scores and counts.  Raises DataError where that is open.

        names: of arrays over all images; parts: of the first image, where each has its own.
        """
        if "regions" in parts and len(shape := file[parts["regions"]].shape) == 2:
            exact = [file[parts[name]].shape[0] for name in ("boxes", "scores") if name in parts]
            return in_columns(shape, exact=exact, count=None, named=self.regions)
        if not names or len(shape := file[names["features"]].shape) != 3:
            return False
        beside = [file[names[name]].shape for name in ("shares", "boxes", "scores") if name in names]
        counts = file[names["counts"]][()] if "counts" in names else np.empty(0)
        exact = [each[1] for each in beside if len(each) > 1]
        count = int(counts.max()) if counts.size else None
        return in_columns(shape[1:], exact=exact, count=count, named=self.regions)


def _names(file: Any) -> dict[str, str]:
    """Which of the known names the file has; none without features."""
    arrays = {name for names in NAMES.values() for name in names if name in file}
    arrays = {name for name in arrays if isinstance(file[name], h5py.Dataset)}
    names_here = {ours: next((name for name in names if name in arrays), "") for ours, names in NAMES.items()}
    return {ours: theirs for ours, theirs in names_here.items() if theirs} if names_here["features"] else {}


def _of_images(file: Any) -> dict[str, dict[str, str]]:
    """Paths of each image's arrays by its id, for files with a group or a prefix an image."""
    images: dict[str, dict[str, str]] = {}
    for key in file:
        if file.get(key, getclass=True) is h5py.Group:
            parts = {ONE_IMAGE[name]: f"{key}/{name}" for name in file[key] if name in ONE_IMAGE}
            if parts:
                images[key] = parts
        else:
            kind = next((kind for kind in ONE_IMAGE if key.endswith(f"_{kind}")), None)
            if kind is not None:
                images.setdefault(key.removesuffix(f"_{kind}"), {})[ONE_IMAGE[kind]] = key
    return images


def _grid_size(features: Any, channels: str) -> tuple[int, int]:
    """H and W of grids [N, C, H, W].  Raises DataError for those that look like [N, H, W, C]."""
    shape = features.shape[1:]
    if channels == "last":
        return int(shape[0]), int(shape[1])
    if max(shape[1:]) > 4 * shape[0]:
        raise DataError(f"grids of shape {shape} look like [H, W, C]; if they are, say channels=last")
    return int(shape[1]), int(shape[2])


def _images(number: int, path: Path, file: Any, images: Mapping[str, dict[str, str]]) -> Source:
    if not images:
        raise DataError(f"no arrays of images in it; expected {Hdf5Layout.holds}")
    first = next(iter(images.values()))
    ragged = [name for name, parts in images.items() if set(parts) != set(first)]
    if ragged:
        raise DataError(f"{len(ragged)} images have other arrays than the first ({some(list(first))}): {some(ragged)}")
    fields = {"region": "regions", "grid": "grid"}
    there = {field: file[first[name]] for field, name in fields.items() if name in first}
    if not there:
        raise DataError(f"images have {some(list(first))} and no features")
    side = math.isqrt(len(there["grid"])) if "grid" in there else 0
    if side and side**2 != len(there["grid"]):
        raise DataError(f"grids of {len(there['grid'])} cells, which are not a square")
    return Source(
        layout="hdf5",
        raw=path,
        reader=Hdf5Rows((path,), {}),
        files=(path,),
        entries=tuple(Entry(name, (number, parts), path) for name, parts in images.items()),
        fields=tuple(there),
        dtypes={field: frozenset([str(values.dtype)]) for field, values in there.items()},
        boxes="none" if "boxes" not in first else _unit(file[first["boxes"]][()]),
        scores="scores" in first,
        grid_size=(side, side) if side else None,
        remarks=(f"{path.name}: an image has {some(list(first.values()), 9)}",),
    )


def _arrays(number: int, path: Path, file: Any, names: dict[str, str], turned: bool) -> Source:
    features = file[names["features"]]
    beside = {names[name]: len(file[names[name]]) for name in ("shares", "boxes", "scores") if name in names}
    if wrong := {name: rows for name, rows in beside.items() if rows != len(features)}:
        raise DataError(f"{len(features)} rows of {names['features']}, and of others {wrong}")
    if "ids" not in names:
        raise DataError(f"no ids in it; add the image ids in the order of its rows as {' or '.join(NAMES['ids'][:2])}")
    values = np.asarray(file[names["ids"]]).ravel()
    ids = [without_repr(name.decode() if isinstance(name, bytes) else str(name)) for name in values]
    places = _places(file, names, len(ids), turned)
    boxes = names.get("shares") or names.get("boxes")
    grid = features.ndim == 4
    read = {"features": names["features"]}
    if boxes and not grid:
        read["boxes"] = boxes
    if "scores" in names and not grid:
        read["scores"] = names["scores"]
    sizes: list[Any] = [None] * len(ids)
    if "widths" in names and "heights" in names:
        pairs = zip(file[names["widths"]][()].ravel(), file[names["heights"]][()].ravel(), strict=True)
        sizes = [(int(width), int(height)) for width, height in pairs]
    counts = [None if grid else (p.stop - p.start if isinstance(p, slice) else p[1]) for p in places]
    unread = [key for key in file if key not in names.values()]
    remarks = [f"{path.name}: read {some(list(names.values()), 9)}" + (f"; not read: {some(unread)}" if unread else "")]
    unit = "none" if "boxes" not in read else "shares" if "shares" in names else _unit(file[boxes][:1])
    kind = "grid" if grid else "region"
    return Source(
        layout="hdf5",
        raw=path,
        entries=tuple(
            Entry(name, (number, place), path, size=size, regions=count)
            for name, place, size, count in zip(ids, places, sizes, counts, strict=True)
        ),
        fields=(kind,),
        reader=Hdf5Rows((path,), read),
        files=(path,),
        dtypes={kind: frozenset([str(features.dtype)])},
        boxes=unit,
        scores="scores" in read,
        remarks=tuple(remarks),
    )


def _places(file: Any, names: Mapping[str, str], images: int, turned: bool) -> list[Any]:
    """Where each image's rows are: a slice of rows, or (row, how many of its regions count)."""
    features = file[names["features"]]
    counts = file[names["counts"]][()].ravel().astype(np.int64) if "counts" in names else None
    if "spans" in names:
        spans = file[names["spans"]][()].astype(np.int64)
        bounds = list(zip(*spans.T, strict=True)) if spans.ndim == 2 else list(pairwise(spans))
    elif features.ndim == 2 and counts is not None:
        ends = np.cumsum(counts)
        bounds = list(zip(ends - counts, ends, strict=True))
    elif features.ndim in (3, 4):
        if len(features) != images or (counts is not None and len(counts) != images):
            raise DataError(f"{len(features)} rows of {names['features']} and {images} ids")
        most = features.shape[2 if turned else 1]
        if features.ndim == 3 and counts is not None and len(counts) and counts.max() > most:
            raise DataError(f"{names['counts']} is up to {counts.max()}, and an image has {most} regions")
        return [(row, most if counts is None or features.ndim == 4 else int(counts[row])) for row in range(images)]
    else:
        raise DataError(f"{names['features']} of shape {features.shape} without pos_boxes or num_boxes")
    if len(bounds) != images:
        raise DataError(f"{len(bounds)} images in {names.get('spans') or names['counts']} and {images} ids")
    if any(not 0 <= first <= end <= len(features) for first, end in bounds):
        raise DataError(f"{names.get('spans') or names['counts']} reaches beyond {len(features)} rows")
    return [slice(int(first), int(end)) for first, end in bounds]


def _unit(boxes: np.ndarray) -> Any:
    return "shares" if boxes.size and float(boxes.max()) <= 1 else "pixels"
