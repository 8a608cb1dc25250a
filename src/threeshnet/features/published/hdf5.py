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
from threeshnet.errors import DataError, Problems, some
from threeshnet.features.published.layout import Entry, PublishedLayout, Request, RowReader, Source, repeated

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
Key = tuple[int, Any]  # number of the file; what finds the image in it


class Hdf5Rows(RowReader):
    """Reads one image. Files are opened when first needed, in each process by itself."""

    def __init__(self, files: tuple[Path, ...], names: Mapping[str, str]) -> None:
        self.files, self.names = files, dict(names)
        self._open: dict[int, h5py.File] = {}

    def read(self, key: Key) -> dict[str, np.ndarray]:
        number, location = key
        if number not in self._open:
            self._open[number] = h5py.File(self.files[number], "r", locking=False)
        file: Any = self._open[number]
        if isinstance(location, dict):  # paths of the arrays of one image
            read = {name: file[path][()] for name, path in location.items()}
        elif isinstance(location, slice):
            read = {ours: file[theirs][location] for ours, theirs in self.names.items()}
        else:
            row, count = location
            read = {ours: file[theirs][row][:count] for ours, theirs in self.names.items()}
        if "features" in read:
            values = read.pop("features")
            if values.ndim == 3:
                return {"grid": np.ascontiguousarray(values.reshape(len(values), -1).T)}
            read["regions"] = values
        if "scores" in read and read["scores"].ndim == 2:
            read["scores"] = read["scores"][:, 1:].max(axis=1)  # class probabilities; the first is the background's
        if "boxes" in read:
            read["boxes"] = read["boxes"][:, :4]
        return read

    def where(self, key: Key) -> str:
        number, location = key
        inside = next(iter(location.values())) if isinstance(location, dict) else f"row {location}"
        return f"{self.files[number].name} {inside}"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # an open file stays in its process


class Hdf5Layout(PublishedLayout):
    """One or several `.h5` or `.hdf5` files of one form."""

    name = "hdf5"
    holds = "*.hdf5 with features and ids, or <id>/features, or <id>_features"

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
        except OSError as error:
            return f"{files[0].name}: cannot be read ({error})"

    def open(self, raw: Path, request: Request, problems: Problems) -> Source:
        files = tuple(files_below(raw, SUFFIXES))
        parts = [_opened(number, file, problems) for number, file in enumerate(files)]
        forms = {str((part.fields, part.boxes, part.scores, part.grid_size)) for part in parts}
        if len(forms) > 1:
            problems.add(f"{raw}: its files are of different forms (fields, boxes, scores, grid): {'; '.join(forms)}")
            return parts[0]
        first = parts[0]
        names: Any = first.reader
        entries = tuple(entry for part in parts for entry in part.entries)
        if twice := list(repeated([entry.id for entry in entries])):
            problems.add(f"{raw}: {len(twice)} ids come a second time: {some(twice)}")
        return first._replace(
            raw=raw,
            entries=entries,
            reader=Hdf5Rows(files, names.names),
            files=files,
            dtypes={field: frozenset(kind for part in parts for kind in part.dtypes[field]) for field in first.fields},
        )


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


def _opened(number: int, path: Path, problems: Problems) -> Source:
    empty = Source("hdf5", path, (), (), Hdf5Rows((path,), {}), (path,), {})
    try:
        with h5py.File(path, "r", locking=False) as file:
            names = _names(file)
            return _arrays(number, path, file, names) if names else _images(number, path, file, empty)
    except (OSError, DataError) as error:
        problems.add(f"{path}: {error}")
        return empty


def _images(number: int, path: Path, file: Any, empty: Source) -> Source:
    images = _of_images(file)
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
    return empty._replace(
        entries=tuple(Entry(name, (number, parts), path) for name, parts in images.items()),
        fields=tuple(there),
        dtypes={field: frozenset([str(values.dtype)]) for field, values in there.items()},
        boxes="none" if "boxes" not in first else _unit(file[first["boxes"]][()]),
        scores="scores" in first,
        grid_size=(side, side) if side else None,
        remarks=(f"{path.name}: an image has {some(list(first.values()), 9)}",),
    )


def _arrays(number: int, path: Path, file: Any, names: dict[str, str]) -> Source:
    features = file[names["features"]]
    if "ids" not in names:
        raise DataError(f"no ids in it; add the image ids in the order of its rows as {' or '.join(NAMES['ids'][:2])}")
    values = np.asarray(file[names["ids"]]).ravel()
    ids = [without_repr(name.decode() if isinstance(name, bytes) else str(name)) for name in values]
    places = _places(file, names, len(ids))
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
        grid_size=tuple(features.shape[2:]) if grid else None,
        remarks=tuple(remarks),
    )


def _places(file: Any, names: Mapping[str, str], images: int) -> list[Any]:
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
        most = features.shape[1]
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
