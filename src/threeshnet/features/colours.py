"""Any picture that Pillow can decode to 8-bit RGB."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

STRIP_VALUES = 1 << 20  # worked on at once, so that a large photo does not exist several times over in float32
BITS_PER_SAMPLE = 258  # tag of TIFF: 12-bit scans are stored as 16-bit numbers
WHITE = "white"


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture as RGB: `image` itself where it is RGB without transparency.

    16-bit grey is scaled from the format's range (65535 is white; 4095 in a 12-bit TIFF), 32-bit grey and float, whose
    formats have no range, from the picture's own darkest and brightest values. Pillow's own conversion would cut
    both off at 255. What is transparent lies on white, as on a page: the colours stored beneath are arbitrary.
    """
    if image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))
        image = scaled(image, 0, 2 ** min(16, *bits) - 1)
    elif image.mode == "I" and image.format == "PPM":
        image = scaled(image, 0, 65535)  # Pillow brings the 16-bit grey of PGM to this range
    elif image.mode in ("I", "F"):
        image = scaled(image, *finite_range(image))
    if image.has_transparency_data:
        return on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def on_white(image: Image.Image) -> Image.Image:
    """A picture with transparency in front of white."""
    if image.mode == "La":  # premultiplied, which Pillow converts to nothing else
        image = image.convert("LA")
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    page = Image.new("RGB", image.size, WHITE)
    page.paste(image, mask=image.getchannel("A"))
    return page


def scaled(image: Image.Image, low: float, high: float) -> Image.Image:
    """One channel of any depth to 8 bits, `low` black and `high` white; what is no number is black."""
    grey = Image.new("L", image.size)
    factor = 255 / (high - low) if high > low else 0.0
    for top, values in _strips(image):
        levels = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) * factor
        grey.paste(Image.fromarray(levels.clip(0, 255).round().astype(np.uint8)), (0, top))
    return grey


def finite_range(image: Image.Image) -> tuple[float, float]:
    """Darkest and brightest finite value of one channel; zeros where there is none."""
    finite = (values[np.isfinite(values)] for _, values in _strips(image))
    ends = [(float(part.min()), float(part.max())) for part in finite if part.size]
    return min((low for low, _ in ends), default=0.0), max((high for _, high in ends), default=0.0)


def _strips(image: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """First row and values, [rows, width] float64, of one strip after the other."""
    rows = max(1, STRIP_VALUES // image.width)
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        yield top, np.asarray(part).astype(np.float64)
