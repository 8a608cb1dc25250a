"""The extractor that reads published arrays instead of looking at photos."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from threeshnet.errors import ConfigError, DataError, one_of
from threeshnet.features.extractor import PARTS, Extractor
from threeshnet.features.published.layout import Source
from threeshnet.files import sha256
from threeshnet.records import VOID, ImageArrays, Photo

log = logging.getLogger(__name__)
DTYPES = ("float16", "float32")
HASHED_AT_ONCE = 4  # files
BEYOND = 1.05  # of the photo's width or height: a box that ends farther out was measured on another photo


class PublishedArrays(Extractor):
    """Arrays of one published source, `keys` says where each photo's are.

    dtype: None keeps float16 and float32 (float64 becomes float32). most: the largest number of regions an image may
    have; of more, the best by score are kept, without scores the first where `surplus` is "first", else ConfigError.
    padding: "drop" takes regions of zeros at the end of an image's list for padding, "keep" for regions.
    """

    needs_pixels = False

    def __init__(
        self,
        *,
        source: Source,
        fields: Sequence[str],
        keys: Mapping[str, Any],
        most: int,
        dtype: str | None = None,
        surplus: str | None = None,
        padding: Literal["drop", "keep"] = "drop",
        with_boxes: bool = True,
    ) -> None:
        super().__init__()
        for name, value, known in (("dtype", dtype, DTYPES), ("most_regions", surplus, ("first",))):
            if value is not None and value not in known:
                raise ConfigError(one_of(name, value, [*known, "null"]))
        if padding not in ("drop", "keep"):
            raise ConfigError(one_of("padding", padding, ("drop", "keep")))
        self.name = f"published {source.layout}"
        self.able = self.fields = tuple(fields)
        self.grid_size = source.grid_size
        self.weights = f"files {fingerprint(source.files, source.raw)}"
        self.options = {"dtype": dtype or "source", "padding": padding, "most_regions": surplus or f"best {most}"}
        self.reader, self.keys, self.most = source.reader, keys, most
        self.dtype, self.surplus, self.padding = dtype, surplus, padding
        self.boxes = source.boxes if with_boxes else "none"
        self.padding_logged = False
        self.widths: dict[str, int] = {}

    def load(self, photo: Photo, image: Image.Image | None) -> dict[str, Tensor]:
        key = self.keys[photo.id]
        try:
            read = self.reader.read(key)
            made: dict[str, np.ndarray] = {}
            if "region" in self.fields:
                made |= self._regions(read, photo)
            if "grid" in self.fields:
                made["grid"] = self._features(read["grid"], "grid")
            if "seg" in self.fields:
                made |= self._segmentation(read)
        except DataError as error:
            raise DataError(f"{self.reader.where(key)}: {error}") from error
        return {name: torch.from_numpy(values) for name, values in made.items()}

    def collate(self, loaded: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        """Regions as a list, since images have different numbers of them; the rest stacked."""
        ragged = PARTS["region"]
        columns = {name: [item[name] for item in loaded] for name in loaded[0]}
        return {name: items if name in ragged else torch.stack(items) for name, items in columns.items()}

    def forward(self, inputs: Mapping[str, Any]) -> ImageArrays:
        arrays: Any = {
            name: [item.numpy() for item in values] if isinstance(values, list) else values.numpy()
            for name, values in inputs.items()
        }
        return ImageArrays(**arrays)

    def _features(self, values: np.ndarray, name: str) -> np.ndarray:
        """The numbers in the type that is kept; DataError when one is not finite, or the width is another."""
        if values.ndim != 2 or not len(values):
            raise DataError(f"{name} of shape {values.shape}; expected tokens by width")
        if values.shape[1] != self.widths.setdefault(name, values.shape[1]):
            raise DataError(f"{name} of width {values.shape[1]}; the others have {self.widths[name]}")
        return self._typed(values, name)

    def _typed(self, values: np.ndarray, name: str) -> np.ndarray:
        # The sum is not finite when a number is not, and reads memory once; it may overflow, so look again then.
        with np.errstate(over="ignore", invalid="ignore"):
            suspect = not np.isfinite(values.sum(dtype=np.float32))
            kept = values.astype(self.dtype or ("float32" if values.dtype == np.float64 else values.dtype), copy=False)
            suspect = suspect or (kept.dtype != values.dtype and not np.isfinite(kept).all())
        if suspect and not np.isfinite(kept).all():
            index = tuple(int(axis[0]) for axis in np.nonzero(~np.isfinite(kept)))
            narrow = f"; {kept.dtype} ends at {np.finfo(kept.dtype).max:g}" if np.isfinite(values[index]) else ""
            raise DataError(f"{name} at {index} is {values[index]}, not a finite number{narrow}")
        return kept

    def _regions(self, read: Mapping[str, np.ndarray], photo: Photo) -> dict[str, np.ndarray]:
        count = self._real(read["regions"], photo)
        parts = {"regions": self._features(read["regions"][:count], "regions")}
        scores = read.get("scores")
        for name in ("boxes", "scores"):
            if name in read and len(read[name]) != len(read["regions"]):
                raise DataError(f"{len(read['regions'])} regions and {len(read[name])} {name}")
        if self.boxes != "none":
            parts["boxes"] = self._shares(read["boxes"][:count], photo)
            # A shard has boxes and scores or neither; without scores all are equal.
            parts["scores"] = np.ones(count, np.float32) if scores is None else scores[:count].astype(np.float32)
        if count > self.most:
            parts = {name: values[self._chosen(scores, count, photo)] for name, values in parts.items()}
        return parts

    def _real(self, regions: np.ndarray, photo: Photo) -> int:
        """How many of the regions count: those before the zeros at the end."""
        if self.padding == "keep" or not len(regions) or regions[-1].any():
            return len(regions)
        real = np.flatnonzero(regions.any(axis=1))
        if not len(real):
            raise DataError("all of its regions are zeros (padding=keep keeps them)")
        if not self.padding_logged:
            self.padding_logged = True
            log.warning(
                "image %s: %d regions of zeros at its end; taken for padding and left out, here and everywhere "
                "(padding=keep keeps them)",
                photo.id,
                len(regions) - int(real[-1]) - 1,
            )
        return int(real[-1]) + 1

    def _chosen(self, scores: np.ndarray | None, count: int, photo: Photo) -> np.ndarray:
        if scores is not None:
            return np.argsort(-scores[:count], kind="stable")[: self.most]
        if self.surplus == "first":
            return np.arange(self.most)
        raise ConfigError(too_many(photo.id, count, self.most))

    def _shares(self, boxes: np.ndarray, photo: Photo) -> np.ndarray:
        """Boxes as shares of the photo's width and height."""
        shares = boxes.astype(np.float32)
        if self.boxes == "pixels":
            if photo.size is None or min(photo.size) < 1:
                raise DataError(f"boxes in pixels and a photo of size {photo.size}")
            shares /= np.array([*photo.size, *photo.size], np.float32)
        if not np.isfinite(shares).all() or (shares[:, :2] > shares[:, 2:]).any():
            raise DataError("a box that is not x1, y1, x2, y2 with x1 <= x2 and y1 <= y2")
        if len(shares) and shares.max() > BEYOND:
            raise DataError(f"a box that ends at {shares.max():.2f} of the photo, whose size is given as {photo.size}")
        return shares.clip(0, 1)

    def _segmentation(self, read: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        classes = len(read["seg_categories"])
        numbers, categories = read["seg_map"], read["seg_categories"]
        # Void is 255 here and may be C in the source.
        valid = (numbers >= 0) & (numbers <= classes) & (numbers == np.floor(numbers)) | (numbers == VOID)
        if not valid.all():
            wrong = numbers[~valid].flat[0]
            raise DataError(
                f"class {wrong:g} in the map; there are 0 to {classes - 1}, and {classes} or {VOID} for void"
            )
        if not np.isin(categories, (0, 1)).all():
            raise DataError("categories that are neither 0 nor 1")
        return {
            "seg_semantic": self._typed(read["seg_semantic"], "seg_semantic"),
            "seg_map": np.where(numbers == classes, VOID, numbers).astype(np.uint8),
            "seg_categories": categories.astype(np.uint8),
        }


def too_many(name: str, count: int, most: int) -> str:
    """The message for an image with more regions than a shard takes."""
    return (
        f"image {name!r} has {count} regions without scores, and {most} are the most; keep the first {most} of each "
        "image with most_regions=first"
    )


def fingerprint(files: Sequence[Path], raw: Path) -> str:
    """sha256 over names and content: arrays that were changed in a single byte are other arrays.

    Not over times and folders, since a copy is the same source.
    """
    digest = hashlib.sha256()
    with ThreadPoolExecutor(HASHED_AT_ONCE) as threads:  # hashing leaves Python's lock to others
        for file, content in zip(files, threads.map(sha256, files), strict=True):
            name = file.relative_to(raw) if file.is_relative_to(raw) else file.name
            digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()
