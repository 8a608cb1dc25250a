"""Pictures as the page shows them, and photos that somebody sends."""

from __future__ import annotations

import io
import threading
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import Image

from threeshnet.errors import DataError
from threeshnet.features.photos import picture, refuse, refuse_no_file, upright

THUMBNAIL, WHOLE = 384, 1600  # pixels of the longer side
QUALITY = 85
CACHE_BYTES = 64_000_000
MOST_PIXELS_SENT = 50_000_000  # the largest phones have them; decoding takes 0.45 GB at most, for the moment
# What cameras, phones and browsers make. Pillow's other decoders are rarely used, and rarely tested with hostile files.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
HEAT = np.array([[255, 237, 160], [254, 178, 76], [240, 59, 32], [189, 0, 38]], dtype=np.float32)  # YlOrRd


def sent_photo(data: bytes) -> Image.Image:
    """The photo in the body of a request, upright, RGB.  Raises DataError for anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in known_formats()])
    except Exception as error:  # of Pillow's decoders, as damaged and hostile files make them
        raise DataError("this is no photo that can be read (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF)") from error
    if image.width * image.height > MOST_PIXELS_SENT:
        size = f"{image.width}x{image.height}"
        raise DataError(f"the photo has {size} pixels; {MOST_PIXELS_SENT / 1e6:g} megapixels are the most")
    return picture(image)


def known_formats() -> set[str]:
    """The formats that this Pillow can open."""
    Image.init()
    return set(Image.OPEN)


class PictureCache:
    """Indexed photos as JPEGs of bounded size; the smaller ones are kept, `most_bytes` of them.

    A photo is always decoded and encoded anew. So nothing but a photo can leave, and no EXIF with the place of a home.
    """

    def __init__(self, most_bytes: int = CACHE_BYTES) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self.jpegs: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self.lock = threading.Lock()

    def jpeg(self, file: Path, side: int) -> bytes:
        """A JPEG whose longer side has at most `side` pixels.  Raises DataError when the photo cannot be read."""
        try:
            key = (str(file), side, file.stat().st_mtime_ns)
        except OSError as error:
            raise DataError(f"{file}: {error.strerror}") from error
        with self.lock:
            if key in self.jpegs:
                self.jpegs.move_to_end(key)
                return self.jpegs[key]
        jpeg = encoded(file, side)
        if side <= THUMBNAIL:
            self._keep(key, jpeg)
        return jpeg

    def _keep(self, key: tuple[str, int, int], jpeg: bytes) -> None:
        with self.lock:
            if key not in self.jpegs:
                self.jpegs[key] = jpeg
                self.bytes += len(jpeg)
            while self.bytes > self.most_bytes:
                self.bytes -= len(self.jpegs.popitem(last=False)[1])


def encoded(file: Path, side: int) -> bytes:
    """A photo as a JPEG of bounded size."""
    refuse_no_file(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                refuse(image)
                image.draft("RGB", (side, side))  # for the eye: a JPEG is decoded at an eighth of its size
                rgb = upright(image)
        rgb.thumbnail((side, side))
        stream = io.BytesIO()
        rgb.save(stream, "JPEG", quality=QUALITY)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file raises anything in Pillow's decoders
        raise DataError(f"{file}: {error}") from error
    return stream.getvalue()


def heat_png(heat: np.ndarray) -> bytes:
    """A map [H, W] in [0, 1] as a transparent picture: hot is red and opaque, cold is clear."""
    heat = np.nan_to_num(np.clip(heat, 0, 1)).astype(np.float32)
    steps = np.linspace(0, 1, len(HEAT))
    colours = np.stack([np.interp(heat, steps, HEAT[:, channel]) for channel in range(3)], axis=-1)
    pixels = np.concatenate([colours, 255 * np.sqrt(heat)[..., None]], axis=-1).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(stream, "PNG")
    return stream.getvalue()
