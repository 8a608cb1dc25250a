"""Semantic masks of any source: 8-bit PNGs of class numbers beside the photos, and a file of class names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from threeshnet.annotations.photo_files import UPRIGHT, frame_of, photo_frame, same_shape
from threeshnet.errors import DataError, Problems, some
from threeshnet.records import VOID

log = logging.getLogger(__name__)
MODES = ("L", "P")  # grey, palette: in both a pixel is a number from 0 to 255
GREY = 0  # colour type of a PNG in the 26th byte of the file; the depth in bits is the 25th (PNG specification, IHDR)
SAMPLE = 100  # masks whose pixels are read before the work begins; a wrong table shows in any


def read_classes(file: Path) -> tuple[str, ...]:
    """The names of classes 0, 1, 2 and so on, a line each; DataError for empty lines, doubles and too many."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").split("\n")]
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


def masks_of(photos: Mapping[str, Path], masks: Mapping[str, Path], classes: Sequence[str]) -> dict[str, Path]:
    """The mask of each photo: the one with its path and name and the ending .png.

    photos: by their path below the folder of photos; masks: the masks by their path below theirs. Raises DataError,
    once for all: masks that are missing, shared by two photos, not of 8 bits, or of another shape than the photo as it
    is displayed (an EXIF rotation applied; the size may differ), and in a sample of them numbers outside of the
    classes. The numbers of the others are looked at when they are loaded.
    """
    names = {key: f"{key.rpartition('.')[0]}.png" for key in photos}
    files = {key: masks[name] for key, name in names.items() if name in masks}
    problems = Problems("semantic masks")
    absent = [name for key, name in names.items() if key not in files]
    if absent:
        problems.add(f"{len(absent)} of {len(photos)} photos have no mask: {some(absent, 5)} missing")
    owners: dict[Path, list[str]] = {}
    for key, file in files.items():
        owners.setdefault(file, []).append(key)
    problems.extend(f"{file}: of {' and of '.join(keys)}" for file, keys in owners.items() if len(keys) > 1)
    for key, file in files.items():
        problems.extend(header_faults(file, photos[key]))
    if not problems:
        warn_of_orientations({key: (file, photos[key]) for key, file in files.items()})
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
            mode, size, kind = mask.mode, frame_of(mask).displayed, mask.format
        with file.open("rb") as stream:
            depth, colour = stream.read(26)[24:]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return [f"{file}: not a readable PNG ({error})"]
    if kind != "PNG" or mode not in MODES:
        return [f"{file}: {kind} of mode {mode}; expected a PNG of mode L or P"]
    if colour == GREY and depth < 8:  # Pillow spreads these numbers over 0 to 255
        return [f"{file}: grey of {depth} bits; expected 8, or a palette"]
    frame = photo_frame(photo)
    if frame is None or same_shape(size, frame.displayed):
        return []
    width, height = frame.displayed
    stored = f" (stored {frame.stored[0]}x{frame.stored[1]}, EXIF orientation {frame.orientation})"
    how = stored if same_shape(size, frame.stored) else ""
    return [f"{file}: {size[0]}x{size[1]}, and the photo is displayed as {width}x{height}{how}"]


def warn_of_orientations(pairs: Mapping[str, tuple[Path, Path]]) -> None:
    """Say which masks may lie over the stored pixels of a photo that is displayed turned.

    A square, or a photo that is mirrored or upside down, has one shape either way. Nothing is said where a mask of the
    same set could only be upright. pairs: mask and photo by the photo's name.
    """
    open_ones = []
    for key, (mask, photo) in pairs.items():
        frame = photo_frame(photo)
        if frame is None or frame.orientation == UPRIGHT:
            continue
        with Image.open(mask) as opened:
            size = frame_of(opened).displayed
        if not same_shape(size, frame.stored):
            return
        open_ones.append(key)
    if open_ones:
        log.warning(
            "%d masks are of photos with an EXIF orientation, and their shapes do not tell how they lie (%s): they are "
            "taken as upright. Turn masks that were drawn over the stored pixels",
            len(open_ones),
            some(open_ones, 3),
        )


def number_faults(file: Path, classes: int) -> list[str]:
    """Class numbers in a mask that the table does not have."""
    try:
        with Image.open(file) as mask:
            numbers = np.unique(np.asarray(mask))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return [f"{file}: torn ({error})"]
    wrong = [int(number) for number in numbers if number >= classes and number != VOID]
    return [f"{file}: class {some(wrong, 5)}; there are 0 to {classes - 1}, and {VOID} for void"] if wrong else []
