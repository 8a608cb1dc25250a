"""Precomputed arrays a split: `<split>_ims.npy`, `_caps.txt`, `_ids.txt` (SCAN, VSE++, VSE-infinity, 3SHNet).

Lee et al., ECCV 2018 (SCAN) published Flickr30K and COCO so; 3SHNet adds `_segmentations.npy` [N, C, 7, 7],
`_seg_maps.npy` [N, 64, 64] and `_cat_onehots.npy` [N, C]. Arrays or ids may come once an image or once a caption.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from threeshnet.annotations.common import tidy
from threeshnet.errors import DataError, Problems, one_of, some
from threeshnet.features.published.layout import FLOATS, Entry, PublishedLayout, Request, RowReader, Source, repeated
from threeshnet.features.published.npy import NpyRows
from threeshnet.records import MAP_SIDE, SCENE_SIDE

SPLITS = {"train": "train", "dev": "dev", "val": "dev", "test": "test", "testall": "testall"}  # theirs -> ours
ARRAYS = {  # ending of the file -> field, name in ImageArrays, its axes after the first
    "ims": ("region", "regions", "N, Dr"),
    "segmentations": ("seg", "seg_semantic", f"C, {SCENE_SIDE}, {SCENE_SIDE}"),
    "seg_maps": ("seg", "seg_map", f"{MAP_SIDE}, {MAP_SIDE}"),
    "cat_onehots": ("seg", "seg_categories", "C"),
}
FEATURES = {"region": "ims", "seg": "segmentations"}  # field -> ending of its array of floats
FIXED = {"segmentations": (None, SCENE_SIDE, SCENE_SIDE), "seg_maps": (MAP_SIDE, MAP_SIDE), "cat_onehots": (None,)}
READ = (*(f"{ending}.npy" for ending in ARRAYS), "caps.txt", "ids.txt")  # after <split>_
MOST_REPEATS = 100  # of one image's row, when repeats are looked for in files without ids


class Key(NamedTuple):
    """Rows of one image: for each array the first and how often it is repeated."""

    split: str
    rows: Mapping[str, tuple[int, int]]


class Split(NamedTuple):
    """One split's files, opened."""

    arrays: dict[str, NpyRows]
    captions: list[str] | None
    ids: list[str] | None


class SplitRows(RowReader):
    """Reads an image's rows; where the source repeats a row once a caption, the repeats must be equal."""

    def __init__(self, arrays: Mapping[str, Mapping[str, NpyRows]]) -> None:
        self.arrays = arrays  # split -> ending -> rows

    def read(self, key: Key) -> dict[str, np.ndarray]:
        read = {}
        for ending, (first, repeats) in key.rows.items():
            rows = self.arrays[key.split][ending]
            read[ARRAYS[ending][1]] = rows.row(first)
            for other in range(first + 1, first + repeats):
                if rows.row(other).tobytes() != read[ARRAYS[ending][1]].tobytes():
                    raise DataError(f"{rows.file.name} rows {first} and {other} are of one image and differ")
        return read

    def where(self, key: Key) -> str:
        rows = self.arrays[key.split]
        return ", ".join(f"{rows[ending].file.name} row {first}" for ending, (first, _) in key.rows.items())


class PrecomputedLayout(PublishedLayout):
    """`<split>_ims.npy` and what belongs to it, for any of the splits train, dev (val), test and testall."""

    name = "precomputed"
    holds = "<split>_ims.npy (or _segmentations, _seg_maps, _cat_onehots), <split>_caps.txt, <split>_ids.txt"

    def missed(self, raw: Path) -> str:
        if any((raw / f"{split}_{ending}.npy").is_file() for split in SPLITS for ending in ARRAYS):
            return ""
        if any((raw / f"{split}_caps.txt").is_file() and (raw / f"{split}_ids.txt").is_file() for split in SPLITS):
            return ""
        return f"none of <split>_{{{','.join(ARRAYS)}}}.npy with <split> one of {', '.join(SPLITS)}"

    def open(self, raw: Path, request: Request, problems: Problems) -> Source:
        present = [split for split in SPLITS if any((raw / f"{split}_{name}").is_file() for name in READ)]
        captioned = [split for split in present if (raw / f"{split}_caps.txt").is_file()]
        # Without captions the folder only adds arrays, by id: its splits are not those of the set.
        chosen = request.splits if captioned else None
        problems.extend(
            one_of("splits", split, present)
            for split in chosen or ()
            if split not in {SPLITS[name] for name in present}
        )
        kept = [split for split in present if chosen is None or SPLITS[split] in chosen]
        problems.extend(
            f"{raw}: no {split}_caps.txt, and {captioned[0]} has its own; import splits with captions (splits=[…])"
            for split in kept
            if captioned and split not in captioned
        )
        splits = {split: _split(raw, split, request, problems) for split in kept}
        fields = _common_fields(raw, splits, problems)
        entries, remarks = [], []
        for split, files in splits.items():
            entries += _entries(raw, split, files, problems, remarks)
        _check_widths(splits, problems)
        unread = [
            f.name for split in kept for f in sorted(raw.glob(f"{split}_*")) if f.name[len(split) + 1 :] not in READ
        ]
        if unread:
            remarks.append(f"{raw}: not read: {some(unread, 9)}")
        types = {
            field: frozenset(
                str(f.arrays[FEATURES[field]].dtype) for f in splits.values() if FEATURES[field] in f.arrays
            )
            for field in fields
        }
        return Source(
            layout=self.name,
            raw=raw,
            entries=tuple(entries),
            fields=fields,
            reader=SplitRows({split: files.arrays for split, files in splits.items()}),
            files=tuple(rows.file for files in splits.values() for rows in files.arrays.values()),
            dtypes=types,
            remarks=tuple(remarks),
        )


def _split(raw: Path, split: str, request: Request, problems: Problems) -> Split:
    """Open a split's files; shapes and types that cannot be go to `problems`."""
    arrays = {}
    for ending, (field, _, axes) in ARRAYS.items():
        file = raw / f"{split}_{ending}.npy"
        if not (request.wants(field) and file.is_file()):
            continue
        try:
            arrays[ending] = NpyRows(file)
            problems.extend(_shape_faults(arrays[ending], ending, axes))
        except (DataError, OSError) as error:
            problems.add(str(error))
    captions, ids = (_lines(raw / f"{split}_{ending}.txt", problems) for ending in ("caps", "ids"))
    return Split(arrays, captions, ids)


def _shape_faults(rows: NpyRows, ending: str, axes: str) -> list[str]:
    fixed = FIXED.get(ending, (None, None))
    if len(rows.shape) != len(fixed) + 1 or any(
        want not in (None, length) for want, length in zip(fixed, rows.shape[1:], strict=True)
    ):
        return [f"{rows.file}: shape {rows.shape}; expected (images, {axes})"]
    if ending in FEATURES.values() and str(rows.dtype.newbyteorder("=")) not in FLOATS:
        return [f"{rows.file}: type {rows.dtype}; expected one of {', '.join(FLOATS)}"]
    return []


def _lines(file: Path, problems: Problems) -> list[str] | None:
    """Lines of a text file, ended by a line feed alone: captions hold all other separators."""
    if not file.is_file():
        return None
    try:
        lines = file.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        problems.add(f"{file}: not UTF-8 text ({error})")
        return None
    return [tidy(line) for line in (lines[:-1] if lines[-1].strip() == "" else lines)]


def _common_fields(raw: Path, splits: Mapping[str, Split], problems: Problems) -> tuple[str, ...]:
    """The fields that some split has; each split must then have all files of it."""
    fields = []
    for field in ("region", "seg"):
        endings = [ending for ending, (of, *_) in ARRAYS.items() if of == field]
        if not any(ending in files.arrays for files in splits.values() for ending in endings):
            continue
        fields.append(field)
        lacking = [
            f"{split}_{ending}.npy"
            for split in splits
            for ending in endings
            if not (raw / f"{split}_{ending}.npy").is_file()
        ]
        if lacking:
            others = f"leave the field out (fields=[…] without {field}) or import the splits that have it (splits=[…])"
            problems.add(f"{raw}: field {field} needs {', '.join(lacking)}, which are not there; {others}")
    return tuple(fields)


def _check_widths(splits: Mapping[str, Split], problems: Problems) -> None:
    for what, axis, endings in (
        ("width Dr", -1, ["ims"]),
        ("number of classes C", 1, ["segmentations", "cat_onehots"]),
    ):
        arrays = [files.arrays[ending] for files in splits.values() for ending in endings if ending in files.arrays]
        widths = [(rows.file.name, rows.shape[axis]) for rows in arrays if len(rows.shape) > 1]
        if len({width for _, width in widths}) > 1:
            problems.add(f"{what} differs: " + ", ".join(f"{name} {width}" for name, width in widths))


def _entries(raw: Path, split: str, files: Split, problems: Problems, remarks: list[str]) -> list[Entry]:
    """The images of a split, each with its rows and captions; counts that do not go together go to `problems`."""
    starts, names = _images(split, files, remarks)
    images, lines = len(names), starts[-1]
    before = len(problems.found)
    owned = _starts(images, len(files.captions), starts) if files.captions is not None else None
    counts = f"{images} images ({'no' if files.ids is None else lines} ids)"
    if files.captions is not None and owned is None:
        problems.add(f"{split}_caps.txt: {len(files.captions)} captions are not a multiple of {counts}")
    rows = {}
    for ending, array in files.arrays.items():
        if (bounds := _starts(images, len(array), starts)) is None or bounds[-1] != len(array):
            captions = "" if files.captions is None else f", {len(files.captions)} captions"
            problems.add(f"{array.file}: {len(array)} rows do not fit {counts}{captions}")
        else:
            rows[ending] = bounds
            if len(array) > images:
                remarks.append(f"{array.file.name}: {len(array)} rows of {images} images; repeats were collapsed")
    if "" in names:
        problems.add(f"{split}_ids.txt: an empty line; each line is the id of an image")
    twice = list(repeated(names))
    if twice:
        problems.add(f"{split}_ids.txt: {len(twice)} ids come a second time, apart from the first: {some(twice)}")
    if len(problems.found) > before:
        return []
    file = next((files.arrays[ending].file for ending in ARRAYS if ending in rows), raw / f"{split}_caps.txt")
    captions = files.captions or []
    return [
        Entry(
            id=name,
            key=Key(split, {ending: (bounds[n], bounds[n + 1] - bounds[n]) for ending, bounds in rows.items()}),
            file=file,
            split=SPLITS[split],
            captions=tuple(captions[owned[n] : owned[n + 1]]) if owned else (),
            regions=files.arrays["ims"].shape[1] if "ims" in files.arrays else None,
        )
        for n, name in enumerate(names)
    ]


def _images(split: str, files: Split, remarks: list[str]) -> tuple[list[int], list[str]]:
    """Where each image's lines start in `_ids.txt` (and the end), and its id. Without ids: by row."""
    if files.ids is not None:
        starts = [n for n, name in enumerate(files.ids) if n == 0 or name != files.ids[n - 1]]
        return [*starts, len(files.ids)], [files.ids[n] for n in starts]
    rows = min(files.arrays.values(), key=len, default=None)
    count, run = (0, 1) if rows is None else (len(rows), 1)
    if rows is not None and files.captions is not None and count == len(files.captions):
        first = rows.row(0).tobytes() if count else b""
        while run < min(count, MOST_REPEATS) and rows.row(run).tobytes() == first:
            run += 1
    images = count // run if count % run == 0 else count
    remarks.append(f"no {split}_ids.txt: images are called {split}-000000 and so on, and cannot be joined by id")
    return list(range(images + 1)), [f"{split}-{number:06d}" for number in range(images)]


def _starts(images: int, count: int, starts: list[int]) -> list[int] | None:
    """Where each image's share of `count` rows starts: as its ids do, or in equal shares; None when neither fits."""
    if count == starts[-1]:
        return starts
    if images and count % images == 0:
        return list(range(0, count + 1, count // images)) if count else None
    return None
