"""Decoding photos: upright, RGB, guarded; and the data set that does it in the loading processes."""

from __future__ import annotations

import stat
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from threeshnet.annotations.photo_files import frame_of
from threeshnet.errors import DataError
from threeshnet.features.colours import to_rgb
from threeshnet.features.extractor import Extractor
from threeshnet.features.fingerprints import Fingerprints, fingerprint, joined
from threeshnet.features.views import View
from threeshnet.records import Photo

# Where Pillow calls a file a decompression bomb. One such photo takes 0.7 GB in its loading process, 1.2 GB when it is
# progressive or 16-bit, 1.4 GB when it is turned and 1.6 GB when it is transparent (measured, for the moment).
MOST_PIXELS = 178_956_970
DECODER = 2  # raised when the same file gives other pixels, so that shards made before are not taken for these
OPENS_A_PROGRAM = ("EPS",)  # Pillow would hand the file to Ghostscript
WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<script")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO/IEC 23008-12
SHOWN_BYTES = 16


class LoadedPhoto(NamedTuple):
    """One photo ready for the extractors, or the reason why it cannot be."""

    number: int  # in the list that is worked on
    size: tuple[int, int]  # width, height in pixels; zeros where unknown
    inputs: list[dict[str, Tensor]]  # one a source
    reason: str = ""  # not empty when the photo is damaged
    fingerprints: Fingerprints | None = None  # of this one photo, where it was decoded


class LoadedBatch(NamedTuple):
    """Photos of one batch stacked, and those that could not be read."""

    numbers: list[int]
    sizes: list[tuple[int, int]]
    inputs: list[dict[str, Any]]  # one a source, as its `collate` gives it
    damaged: list[tuple[int, str]]  # number, reason
    fingerprints: Fingerprints | None = None  # where the photos were decoded


def open_photo(file: Path) -> Image.Image:
    """The photo as upright RGB, the first frame of several; DataError with the reason when it cannot be read.

    JPEG is decoded in full: libjpeg's smaller scales (`Image.draft`) give other pixels than shrinking
    afterwards, by up to 58 of 255 levels on photos of COCO.
    """
    refuse_no_file(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd files; whether a photo is too large is decided here
            with Image.open(file) as image:
                refuse(image)
                return upright(image)
    except MemoryError:  # says something about the machine at this moment, nothing about the photo
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{file}: {_what_else(file)}") from error
    except Exception as error:  # a damaged file raises anything, from struct.error to TypeError, in Pillow's decoders
        raise DataError(f"{file}: {_text(error)}") from error


def upright(image: Image.Image) -> Image.Image:
    """An opened picture as upright RGB."""
    frame = frame_of(image)
    image.load()
    rgb = to_rgb(image)
    return rgb if image.format == "TIFF" else frame.upright(rgb)  # Pillow turns a TIFF by itself


def picture(image: Image.Image) -> Image.Image:
    """A picture that the caller has opened, as upright RGB; it stays as it is. DataError when it cannot be read."""
    try:
        refuse(image)
        return upright(image)
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(_text(error)) from error


def refuse_no_file(file: Path) -> None:
    """DataError for what is no file with bytes in it; a pipe would be waited for without an end."""
    try:
        status = file.stat()
    except FileNotFoundError as error:
        target = f"a link to {file.readlink()}, which is missing" if file.is_symlink() else "missing"
        raise DataError(f"{file}: {target}") from error
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from error
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{file}: a folder, not a photo")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{file}: a device or a pipe, not a photo")
    if not status.st_size:
        raise DataError(f"{file}: empty (0 bytes)")


def refuse(image: Image.Image) -> None:
    """ValueError for a picture that must not be decoded; opening one has read its header alone."""
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width}x{image.height} pixels, a decompression bomb; {MOST_PIXELS} are the most")
    if image.format in OPENS_A_PROGRAM:
        raise ValueError(f"a drawing ({image.format}), which only a program can show; save it as PNG")


class PhotoBatches(Dataset[LoadedBatch]):
    """Decodes photos and runs each source's `load` on them, a whole batch an item.

    `batches` lists the numbers of the photos of each item; `view` makes another picture of a decoded photo.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        sources: Sequence[Extractor],
        batches: Sequence[Sequence[int]],
        view: View | None = None,
    ) -> None:
        self.photos, self.sources, self.batches, self.view = photos, sources, batches, view
        self.needs_pixels = any(source.needs_pixels for source in sources)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, item: int) -> LoadedBatch:
        return collated([self._loaded(number) for number in self.batches[item]], self.sources)

    def _loaded(self, number: int) -> LoadedPhoto:
        photo = self.photos[number]
        try:
            image = open_photo(photo.file) if self.needs_pixels else None
            prints = fingerprint(photo.file, image) if image else None  # of the photo, however it is seen
            if image and self.view:
                image = self.view(photo, image)
            inputs = [source.load(photo, image) for source in self.sources]
        except (DataError, OSError) as error:
            return LoadedPhoto(number, (0, 0), [], _reason(photo, error))
        return LoadedPhoto(number, image.size if image else photo.size or (0, 0), inputs, fingerprints=prints)


class PhotoInputs(PhotoBatches):
    """Decodes photos, files or PIL images, and runs each source's `load` on them, a batch an item."""

    def __init__(
        self,
        photos: Sequence[Any],
        masks: Sequence[Any] | None,
        sources: Sequence[Extractor],
        batch_size: int,
        fingerprints: bool = False,
    ) -> None:
        numbers = range(len(photos))
        super().__init__((), sources, [numbers[first : first + batch_size] for first in numbers[::batch_size]])
        self.given, self.masks, self.fingerprints = photos, masks, fingerprints

    def _loaded(self, number: int) -> LoadedPhoto:
        given, mask = self.given[number], self.masks[number] if self.masks else None
        name = f"photo {number}" if isinstance(given, Image.Image) else str(given)
        photo = Photo(name, Path(name), "", (), segmentation=Path(mask) if mask else None)
        try:
            image = picture(given) if isinstance(given, Image.Image) else open_photo(photo.file)
            inputs = [source.load(photo, image) for source in self.sources]
            found = fingerprint(photo.file, image) if self.fingerprints else None
        except (DataError, OSError) as error:
            return LoadedPhoto(number, (0, 0), [], f"{name}: {str(error).removeprefix(f'{name}: ')}")
        return LoadedPhoto(number, image.size, inputs, fingerprints=found)


def collated(loaded: Sequence[LoadedPhoto], sources: Sequence[Extractor]) -> LoadedBatch:
    """Put the whole photos of a batch together, list the damaged ones."""
    whole = [photo for photo in loaded if not photo.reason]
    by_source = zip(*(photo.inputs for photo in whole), strict=True)
    return LoadedBatch(
        numbers=[photo.number for photo in whole],
        sizes=[photo.size for photo in whole],
        inputs=[source.collate(items) for source, items in zip(sources, by_source, strict=False)],  # none: no photo
        damaged=[(photo.number, photo.reason) for photo in loaded if photo.reason],
        fingerprints=joined([photo.fingerprints for photo in whole if photo.fingerprints]),
    )


def _reason(photo: Photo, error: Exception) -> str:
    """Why a photo is left out, under its id, and its file name where the id does not say it.

    Without the folder: shards hold this text, and those made where the photos lie elsewhere have the same bytes.
    """
    says_file = photo.file.as_posix().endswith(photo.id)
    return f"{photo.id}: {'' if says_file else photo.file.name + ': '}{str(error).removeprefix(f'{photo.file}: ')}"


def _what_else(file: Path) -> str:
    """What a file is that Pillow does not know."""
    with file.open("rb") as stream:
        start = stream.read(256)
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(WEB_PAGE):
        return "a web page, not a photo: what the server said instead of the photo was saved"
    if start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS:
        return "a HEIC photo, which needs a package: pip install pillow-heif"
    return f"no image that Pillow knows; its first bytes are {start[:SHOWN_BYTES]!r}"


def _text(error: Exception) -> str:
    """An error in words: many of a decoder's say nothing without their type."""
    plain = isinstance(error, OSError | ValueError | SyntaxError | Image.DecompressionBombError) and str(error)
    return str(error) if plain else f"cannot be decoded ({error!r})"
