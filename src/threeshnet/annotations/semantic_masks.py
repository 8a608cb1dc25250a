"""Semantic masks of any source: 8-bit PNGs of class numbers beside the photos, and a file of class names."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from threeshnet.errors import DataError, Problems
from threeshnet.records import VOID

MODES = ("L", "P")  # grey, palette: in both a pixel is a number from 0 to 255
GREY = 0  # colour type of a PNG in the 26th byte of the file; the depth in bits is the 25th (PNG specification, IHDR)
SAMPLE = 100  # masks whose pixels are read before the work begins; a wrong table shows in any
ASPECT_SLACK = 1.1  # a mask may be that much wider or narrower than its photo: sizes are rounded
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
ORIENTATION = 0x0112


def read_classes(file: Path) -> tuple[str, ...]:
    """The names of classes 0, 1, 2 and so on, a line each; DataError for empty lines, doubles and too many."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: no file of class names, one a line in UTF-8 ({error})") from error
    while lines and not lines[-1]:
        lines.pop()
    problems = Problems(str(file))
    problems.extend(f"line {number}: empty" for number, line in enumerate(lines, start=1) if not line)
    doubles = {line for line in lines if line and lines.count(line) > 1}
    problems.extend(f"class {name!r} stands in {lines.count(name)} lines" for name in sorted(doubles))
    if not 0 < len(lines) <= VOID:
        problems.add(f"{len(lines)} classes; masks of 8 bits hold 1 to {VOID}, and {VOID} for void")
    problems.raise_as(DataError, "Line 1 is the name of class 0, and each line is one class.")
    return tuple(lines)


def masks_of(photos: Mapping[str, Path], there: Mapping[str, Path], classes: Sequence[str]) -> dict[str, Path]:
    """The mask of each photo: the one with its path and name and the ending .png.

    photos: by their path below the folder of photos; there: the masks by their path below theirs. Raises DataError,
    once for all: masks that are missing, shared by two photos, not of 8 bits, or of another shape than the photo as it
    is displayed (an EXIF rotation applied; the size may differ), and in a sample of them numbers outside of the
    classes. The numbers of the others are looked at when they are loaded.
    """
    names = {key: f"{key.rpartition('.')[0]}.png" for key in photos}
    files = {key: there[name] for key, name in names.items() if name in there}
    problems = Problems("semantic masks")
    absent = [name for key, name in names.items() if key not in files]
    if absent:
        shown = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
        problems.add(f"{len(absent)} of {len(photos)} photos have no mask: {shown} missing")
    owners: dict[Path, list[str]] = {}
    for key, file in files.items():
        owners.setdefault(file, []).append(key)
    problems.extend(f"{file}: of {' and of '.join(keys)}" for file, keys in owners.items() if len(keys) > 1)
    for key, file in files.items():
        problems.extend(header_faults(file, photos[key]))
    if not problems:
        sample = list(files.values())[:: max(1, len(files) // SAMPLE)]
        problems.extend(fault for file in sample for fault in number_faults(file, len(classes)))
    problems.raise_as(
        DataError,
        "Put the masks right (8-bit PNGs of mode L or P, a class number a pixel, upright like the photo, the photo's "
        "path and name with .png), or leave them out: data.reader.masks=null",
    )
    return files


def header_faults(file: Path, photo: Path) -> list[str]:
    """What the header of a mask says is wrong with it, and its shape beside the photo's."""
    try:
        with Image.open(file) as mask:
            mode, (width, height), kind = mask.mode, mask.size, mask.format
        with file.open("rb") as stream:
            depth, colour = stream.read(26)[24:]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return [f"{file}: not a readable PNG ({error})"]
    if kind != "PNG" or mode not in MODES:
        return [f"{file}: {kind} of mode {mode}; expected a PNG of mode L or P"]
    if colour == GREY and depth < 8:  # Pillow spreads these numbers over 0 to 255
        return [f"{file}: grey of {depth} bits; expected 8, or a palette"]
    shape = upright_size(photo)
    if shape is None:
        return []
    stretch = (width * shape[1]) / (height * shape[0])
    if 1 / ASPECT_SLACK <= stretch <= ASPECT_SLACK:
        return []
    return [f"{file}: {width}x{height}, and the photo is displayed as {shape[0]}x{shape[1]}"]


def upright_size(photo: Path) -> tuple[int, int] | None:
    """Width and height of a photo as it is displayed; None for a damaged one, which is reported when it is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(photo) as image:
                width, height = image.size
                return (height, width) if image.getexif().get(ORIENTATION) in TURNED else (width, height)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def number_faults(file: Path, classes: int) -> list[str]:
    """Class numbers in a mask that the table does not have."""
    try:
        with Image.open(file) as mask:
            numbers = np.unique(np.asarray(mask))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return [f"{file}: torn ({error})"]
    wrong = [int(number) for number in numbers if number >= classes and number != VOID]
    shown = ", ".join(map(str, wrong[:5])) + (", …" if len(wrong) > 5 else "")
    return [f"{file}: class {shown}; there are 0 to {classes - 1}, and {VOID} for void"] if wrong else []
