"""One `.npz` an image with its regions and boxes."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from threeshnet.annotations.photo_files import files_below
from threeshnet.errors import DataError, Problems, some
from threeshnet.features.published.axes import check_axis, in_columns
from threeshnet.features.published.image_files import SAMPLE, ImageFilesLayout
from threeshnet.features.published.layout import Entry, Request, RowReader, Source

FEATURES = ("x", "features", "feat", "image_features")
BOXES = ("bbox", "boxes", "bboxes")
COUNTS = ("num_bbox", "num_boxes")
SCORES = ("scores", "objects_conf", "conf")
SIZE = ("image_w", "image_h")


class NpzRows(RowReader):
    """Reads one image's `.npz`."""

    def __init__(self, names: Mapping[str, str], turned: bool) -> None:
        self.names, self.turned = dict(names), turned  # ours -> the file's; whether regions are columns

    def read(self, key: Path) -> dict[str, np.ndarray]:
        arrays = _loaded(key, list(self.names.values()))
        read = {ours: arrays[theirs] for ours, theirs in self.names.items()}
        if self.turned:
            read["regions"] = np.ascontiguousarray(read["regions"].T)
        if flat := [name for name, values in read.items() if name != "count" and not values.ndim]:
            raise DataError(f"{', '.join(self.names[name] for name in flat)} of shape (); expected a row a region")
        if "count" in read:
            count = _number(read.pop("count"), self.names["count"])
            if count > len(read["regions"]):
                raise DataError(f"{self.names['count']} is {count}, and there are {len(read['regions'])} regions")
            read = {name: values[:count] for name, values in read.items()}
        wrong = {name: len(values) for name, values in read.items() if len(values) != len(read["regions"])}
        if wrong:
            raise DataError(f"{len(read['regions'])} regions and {wrong}")
        return read


class NpzLayout(ImageFilesLayout):
    """A folder of `<id>.npz`, as bottom-up-attention.pytorch and its relatives write them.

    Older ones hold `x` as [Dr, regions] (OpenVQA reads it so): counts, boxes and scores tell, or `regions` does.
    `info` is a pickle there and is not opened.
    """

    name = "npz_files"
    suffixes = (".npz",)
    holds = f"<id>.npz with {' or '.join(FEATURES)}, and {' or '.join(BOXES)} where there are boxes"

    def __init__(self, *, regions: str | None = None) -> None:
        check_axis(regions)
        self.regions = regions

    def image_files(self, raw: Path) -> list[Path]:
        return files_below(raw, self.suffixes)

    def fault(self, file: Path) -> str:
        names = _members(file)
        return "" if _known(names, FEATURES) else f"{file.name} holds {some(names, 9)}, none of {some(FEATURES, 9)}"

    def _turned(self, files: Sequence[Path], names: Mapping[str, str], problems: Problems) -> bool:
        """Whether regions are columns: by the first file, or where that leaves it open by the next that tells."""
        first = _in_columns(files[0], names, self.regions)
        if isinstance(first, bool):
            return first
        for file in files[1 :: max(1, len(files) // SAMPLE)]:
            with suppress(DataError):  # a damaged file is reported when it is read
                if isinstance(answer := _in_columns(file, names, self.regions), bool):
                    return answer
        problems.add(first)
        return False

    def open(self, raw: Path, request: Request, problems: Problems) -> Source:
        files = self.unique_files(raw, problems)
        held = _members(files[0])
        kinds = {"regions": FEATURES, "boxes": BOXES, "count": COUNTS, "scores": SCORES}
        names = {ours: theirs for ours, known in kinds.items() if (theirs := _known(held, known))}
        first = _loaded(files[0], list(names.values()))
        regions = first[names["regions"]]
        turned = self._turned(files, names, problems) if regions.ndim == 2 else False
        left_out: list[str] = []
        entries, sized = [], all(name in held for name in SIZE)
        for file in files:
            try:
                size = None
                if sized:
                    width, height = (_number(values, name) for name, values in _loaded(file, SIZE).items())
                    size = (width, height)
            except DataError as error:
                (problems.add if request.on_error == "stop" else left_out.append)(f"{file}: {error}")
            else:
                entries.append(Entry(file.stem, file, file, size=size))
        inside = "boxes" in names and first[names["boxes"]].size and float(first[names["boxes"]].max()) <= 1
        unread = [name for name in held if name not in {*names.values(), *SIZE}] or ["nothing"]
        remarks = [f"read from each .npz: {', '.join(names.values())}; not read: {some(unread, 9)}"]
        if turned:
            remarks.append(f"{names['regions']} holds a region a column; it was turned")
        return Source(
            layout=self.name,
            raw=raw,
            entries=tuple(entries),
            fields=("region",),
            reader=NpzRows(names, turned),
            files=tuple(files),
            dtypes={"region": frozenset([str(regions.dtype)])},
            boxes="none" if "boxes" not in names else "shares" if inside else "pixels",
            scores="scores" in names,
            remarks=tuple(remarks),
            left_out=tuple(left_out),
        )


def _in_columns(file: Path, names: Mapping[str, str], named: str | None) -> bool | str:
    """Whether a file holds a region a column; why that is open, where it is."""
    held = _loaded(file, list(names.values()))
    exact = [len(held[names[name]]) for name in ("boxes", "scores") if name in names and held[names[name]].ndim]
    count = _number(held[names["count"]], f"{file.name}: {names['count']}") if "count" in names else None
    if held[names["regions"]].ndim != 2:
        return f"{file}: {names['regions']} of shape {held[names['regions']].shape}; expected two axes"
    try:
        return in_columns(held[names["regions"]].shape, exact=exact, count=count, named=named)
    except DataError as error:
        return f"{file}: {names['regions']} of {error}"


def _known(held: Sequence[str], known: Sequence[str]) -> str:
    return next((name for name in known if name in held), "")


def _members(file: Path) -> list[str]:
    try:
        with zipfile.ZipFile(file) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"not a whole .npz file ({error})") from error


def _number(values: np.ndarray, name: str) -> int:
    """The one whole number that an array holds.  Raises DataError for another array."""
    if values.size != 1 or not np.isfinite(values).all() or (number := int(values.reshape(-1)[0])) != values.item():
        raise DataError(f"{name} holds {values.dtype} of shape {values.shape}; expected one whole number")
    return number


def _loaded(file: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The members by name; DataError when one is absent, torn, a pickle or no numbers."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot be read ({error})") from error
    problems = Problems(file.name)
    problems.extend(
        f"{name} holds {a.dtype}; expected numbers" for name, a in arrays.items() if a.dtype.kind not in "fiub"
    )
    problems.raise_as(DataError)
    return arrays
