"""Decoding photos: upright, RGB, guarded; and the data set that does it in the loading processes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from threeshnet.errors import DataError
from threeshnet.features.extractor import Extractor
from threeshnet.records import Photo

MOST_PIXELS = 178_956_970  # where Pillow calls a file a decompression bomb


class LoadedPhoto(NamedTuple):
    """One photo ready for the extractors, or the reason why it cannot be."""

    number: int  # in the list that is worked on
    size: tuple[int, int]  # width, height in pixels; zeros where unknown
    inputs: list[dict[str, Tensor]]  # one a source
    reason: str = ""  # not empty when the photo is damaged


class LoadedBatch(NamedTuple):
    """Photos of one batch stacked, and those that could not be read."""

    numbers: list[int]
    sizes: list[tuple[int, int]]
    inputs: list[dict[str, Any]]  # one a source, as its `collate` gives it
    damaged: list[tuple[int, str]]  # number, reason


def decoded(file: Path) -> Image.Image:
    """The photo as upright RGB; DataError with the reason when it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise DataError(f"{file}: {image.width}x{image.height} pixels; {MOST_PIXELS} are the most")
                image.load()
                return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError as error:
        raise DataError(f"{file}: missing") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{file}: {error or type(error).__name__}") from error


class PhotoBatches(Dataset[LoadedBatch]):
    """Decodes photos and runs each source's `load` on them, a whole batch an item.

    `batches` lists the numbers of the photos of each item.
    """

    def __init__(self, photos: Sequence[Photo], sources: Sequence[Extractor], batches: Sequence[Sequence[int]]) -> None:
        self.photos, self.sources, self.batches = photos, sources, batches
        self.needs_pixels = any(source.needs_pixels for source in sources)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, item: int) -> LoadedBatch:
        return collated([self._loaded(number) for number in self.batches[item]], self.sources)

    def _loaded(self, number: int) -> LoadedPhoto:
        photo = self.photos[number]
        try:
            image = decoded(photo.file) if self.needs_pixels else None
            inputs = [source.load(photo, image) for source in self.sources]
        except (DataError, OSError) as error:
            return LoadedPhoto(number, (0, 0), [], f"{photo.id}: {error}")
        return LoadedPhoto(number, image.size if image else photo.size or (0, 0), inputs)


def collated(loaded: Sequence[LoadedPhoto], sources: Sequence[Extractor]) -> LoadedBatch:
    """Put the whole photos of a batch together, list the damaged ones."""
    whole = [photo for photo in loaded if not photo.reason]
    by_source = zip(*(photo.inputs for photo in whole), strict=True)
    return LoadedBatch(
        numbers=[photo.number for photo in whole],
        sizes=[photo.size for photo in whole],
        inputs=[source.collate(items) for source, items in zip(sources, by_source, strict=False)],  # none: no photo
        damaged=[(photo.number, photo.reason) for photo in loaded if photo.reason],
    )
