"""One file an image: regions as `.npy`, grids as `.npy` or `.pth`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from threeshnet.annotations.photo_files import files_below
from threeshnet.errors import ConfigError, DataError, Problems, one_of
from threeshnet.features.published.axes import check_axis
from threeshnet.features.published.layout import FLOATS, Entry, PublishedLayout, Request, RowReader, Source, repeated
from threeshnet.features.published.npy import NpyRows
from threeshnet.features.published.precomputed import ARRAYS, SPLITS
from threeshnet.files import read_tensors

OF_A_SPLIT = re.compile(f"({'|'.join(SPLITS)})_({'|'.join(ARRAYS)})")  # `precomputed` reads these
SAMPLE = 20  # files whose shapes are compared
BEGINS_AS_A_SPLIT = re.compile(f"({'|'.join(SPLITS)})_")
CHANNELS = ("first", "last")


class ImageFilesLayout(PublishedLayout):
    """Base of the layouts with one file for each image, named by the image's id, anywhere below the folder."""

    suffixes: tuple[str, ...]

    def image_files(self, raw: Path) -> list[Path]:
        """Not those of a split's arrays (`dev_ims.npy`), nor other files of that split beside them."""
        files = files_below(raw, self.suffixes)
        of_splits = {file.parent for file in files if OF_A_SPLIT.fullmatch(file.stem)}
        return [file for file in files if not (file.parent in of_splits and BEGINS_AS_A_SPLIT.match(file.stem))]

    def missed(self, raw: Path) -> str:
        files = self.image_files(raw)
        try:
            return self.fault(files[0]) if files else f"no {' or '.join(self.suffixes)} file of one image"
        except DataError as error:
            return f"{files[0].name}: {error}"

    def fault(self, file: Path) -> str:
        """What the file of an image lacks; empty when it lacks nothing. Raises DataError for an unreadable file."""
        raise NotImplementedError

    def unique_files(self, raw: Path, problems: Problems) -> list[Path]:
        """The files of the images; ids that occur twice go to `problems`."""
        files = self.image_files(raw)
        problems.extend(f"{raw}: the id {name} is there twice" for name in repeated([file.stem for file in files]))
        return files


class NpyFiles(RowReader):
    """Reads one image's file whole; turned where regions are columns."""

    def __init__(self, *, turned: bool = False) -> None:
        self.turned = turned

    def read(self, key: Path) -> dict[str, np.ndarray]:
        regions = NpyRows(key).whole()
        if not regions.ndim:
            raise DataError(f"{key}: shape (); expected [N, Dr]")
        return {"regions": np.ascontiguousarray(regions.T) if self.turned else regions}


class RegionFilesLayout(ImageFilesLayout):
    """`<id>.npy` files of two axes [N, Dr], as 3SHNet takes COCO's; [Dr, N] with regions="columns"."""

    name = "region_files"
    holds = "<id>.npy an image, its regions as [N, Dr]"
    suffixes = (".npy",)

    def __init__(self, *, regions: str | None = None) -> None:
        check_axis(regions)
        self.regions = regions

    def fault(self, file: Path) -> str:
        shape = NpyRows(file).shape
        return "" if len(shape) == 2 else f"{file.name} has shape {shape}; expected [N, Dr]"

    def open(self, raw: Path, request: Request, problems: Problems) -> Source:
        files = self.unique_files(raw, problems)
        first = NpyRows(files[0])
        if (kind := str(first.dtype.newbyteorder("="))) not in FLOATS:
            problems.add(f"{first.file}: type {kind}; expected one of {', '.join(FLOATS)}")
        some = (NpyRows(file).shape for file in files[:: max(1, len(files) // SAMPLE)])
        shapes = [shape for shape in some if len(shape) == 2]  # others are named when they are read
        several_widths = len({shape[0] for shape in shapes}) == 1 < len({shape[-1] for shape in shapes})
        if self.regions is None and several_widths:
            problems.add(
                f"{raw}: shapes {shapes[0]}, {shapes[-1]}, … have regions as columns; if so, say regions=columns"
            )
        return Source(
            layout=self.name,
            raw=raw,
            entries=tuple(Entry(file.stem, file, file) for file in files),
            fields=("region",),
            reader=NpyFiles(turned=self.regions == "columns"),
            files=tuple(files),
            dtypes={"region": frozenset([kind])},
        )


class GridFiles(RowReader):
    """Reads one image's file: cells row by row, [H*W, Dg].

    size: H, W that all must have; pooled: averaged to them (adaptively) instead.
    """

    def __init__(self, *, size: tuple[int, int], pooled: bool, channels: str) -> None:
        self.size, self.pooled, self.channels = size, pooled, channels

    def read(self, key: Path) -> dict[str, np.ndarray]:
        grid = grid_of(key, self.channels)
        if self.pooled:
            pooled = nn.functional.adaptive_avg_pool2d(torch.from_numpy(grid).float(), self.size)
            grid = pooled.numpy().astype(grid.dtype)
        elif grid.shape[1:] != self.size:
            raise ConfigError(
                f"{key}: a grid of {grid.shape[1]}x{grid.shape[2]} cells where {self.size[0]}x{self.size[1]} were "
                "before, and one set has one size; average all to one with cells=7"
            )
        return {"grid": np.ascontiguousarray(grid.reshape(len(grid), -1).T)}


class GridFilesLayout(ImageFilesLayout):
    """`<id>.npy`, `<id>.pth` or `<id>.pt` (Jiang et al., CVPR 2020, grid-feats-vqa).

    A `.pth` is opened for weights only: what else a pickle may hold is refused.

    cells: the side of the grid that all are averaged to, None to keep theirs. channels: "first" for [C, H, W], "last"
    for [H, W, C].
    """

    name = "grid_files"
    holds = "<id>.npy or <id>.pth an image, its grid as [C, H, W] or [1, C, H, W]"
    suffixes = (".npy", ".pth", ".pt")

    def __init__(self, *, cells: int | None = None, channels: Literal["first", "last"] = "first") -> None:
        if cells is not None and cells < 1:
            raise ConfigError(f"cells={cells}: 1 is the least, null keeps the source's")
        if channels not in CHANNELS:
            raise ConfigError(one_of("channels", channels, CHANNELS))
        self.cells, self.channels = cells, channels

    def fault(self, file: Path) -> str:
        grid_of(file, self.channels)
        return ""

    def open(self, raw: Path, request: Request, problems: Problems) -> Source:
        files = self.unique_files(raw, problems)
        grid = grid_of(files[0], self.channels)
        width, *size = grid.shape
        if self.channels == "first" and max(size) > 4 * width:
            problems.add(f"{files[0]}: shape {grid.shape} looks like [H, W, C]; if it is, say channels=last")
        height, wide = (self.cells, self.cells) if self.cells else size
        return Source(
            layout=self.name,
            raw=raw,
            entries=tuple(Entry(file.stem, file, file) for file in files),
            fields=("grid",),
            reader=GridFiles(size=(height, wide), pooled=self.cells is not None, channels=self.channels),
            files=tuple(files),
            dtypes={"grid": frozenset([str(grid.dtype)])},
            grid_size=(height, wide),
        )


def grid_of(file: Path, channels: str) -> np.ndarray:
    """The grid of a file as [C, H, W]; DataError when it is none."""
    values = NpyRows(file).whole() if file.suffix.lower() == ".npy" else _tensor(file)
    shape = values.shape
    if values.ndim == 4 and len(values) == 1:
        values = values[0]
    if values.ndim != 3 or str(values.dtype) not in FLOATS:
        raise DataError(f"shape {shape} of {values.dtype}; expected floats [C, H, W] or [1, C, H, W]")
    return values.transpose(2, 0, 1) if channels == "last" else values


def _tensor(file: Path) -> np.ndarray:
    try:
        values = read_tensors(file)
    except Exception as error:  # torch's readers of damaged files raise whatever they stumble over
        raise DataError(f"cannot be opened for weights alone ({str(error).partition(chr(10))[0]})") from error
    if not isinstance(values, torch.Tensor):
        raise DataError(f"holds a {type(values).__name__}; expected one tensor")
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
