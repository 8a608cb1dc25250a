"""One `.npy` an image with its regions [N, Dr], as 3SHNet takes COCO's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from threeshnet.errors import DataError, Problems
from threeshnet.features.published.layout import FLOATS, Asked, Entry, Found, PublishedLayout, files_below, repeated
from threeshnet.features.published.npy import NpyRows
from threeshnet.features.published.precomputed import ARRAYS, SPLITS

OF_A_SPLIT = re.compile(f"({'|'.join(SPLITS)})_({'|'.join(ARRAYS)})")  # `precomputed` reads these


class NpyFiles:
    """Reads one image's file whole."""

    def read(self, key: Path) -> dict[str, np.ndarray]:
        return {"regions": NpyRows(key).whole()}

    def where(self, key: Path) -> str:
        return key.name


class RegionFilesLayout(PublishedLayout):
    """`<id>.npy` files of two axes, anywhere below the folder."""

    name = "region_files"
    holds = "<id>.npy an image, its regions as [N, Dr]"

    def missed(self, raw: Path) -> str:
        files = image_files(raw, (".npy",))
        if not files:
            return "no .npy file an image"
        try:
            shape = NpyRows(files[0]).shape
        except DataError as error:
            return str(error)
        return "" if len(shape) == 2 else f"{files[0].name} has shape {shape}; expected [N, Dr]"

    def open(self, raw: Path, asked: Asked, problems: Problems) -> Found:
        files = image_files(raw, (".npy",))
        problems.extend(f"{raw}: {name}.npy is there twice" for name in repeated([file.stem for file in files]))
        first = NpyRows(files[0])
        if (kind := str(first.dtype.newbyteorder("="))) not in FLOATS:
            problems.add(f"{first.file}: type {kind}; expected one of {', '.join(FLOATS)}")
        return Found(
            layout=self.name,
            raw=raw,
            entries=tuple(Entry(file.stem, file, file) for file in files),
            fields=("region",),
            reader=NpyFiles(),
            files=tuple(files),
            dtypes={"region": frozenset([kind])},
        )


def image_files(raw: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files of one image each: those that are not named like a split's arrays."""
    return [file for file in files_below(raw, suffixes) if not OF_A_SPLIT.fullmatch(file.stem)]
