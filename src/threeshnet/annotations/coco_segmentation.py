"""COCO's panoptic PNGs and instance outlines as 8-bit PNGs of class numbers (255 is void)."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from pydantic import Field, TypeAdapter
from rich.console import Console
from rich.progress import track
from typing_extensions import TypedDict

from threeshnet.annotations.photo_files import UPRIGHT, Frame, photo_frame, same_shape
from threeshnet.errors import DataError, Problems, some
from threeshnet.files import cannot_write, check_writable, sha256
from threeshnet.forms import PlainText, json_faults
from threeshnet.records import VOID, Photo

log = logging.getLogger(__name__)
DRAWING = 2  # raised when the same source gives another map, so that maps drawn before are not taken for these
LONGEST_SIDE = 1 << 20
TELLING = 20  # maps that are drawn to see how all of them lie
CACHE = "data.reader.cache"  # the setting of the folder
AGAIN = "Take the file from cocodataset.org again."


class Category(TypedDict):
    id: int
    name: str


class Segment(TypedDict):
    id: int
    category_id: int


class PanopticNote(TypedDict):
    image_id: int
    file_name: PlainText
    segments_info: list[Segment]


class PanopticFile(TypedDict):
    images: list[Any]
    annotations: list[PanopticNote]
    categories: list[Category]


Side = Annotated[int, Field(gt=0, lt=LONGEST_SIDE)]  # in pixels


class SizedImage(TypedDict):
    id: int
    width: Side
    height: Side


class Outline(TypedDict):
    image_id: int
    category_id: int
    area: float
    segmentation: list[Any] | dict[str, Any]


class InstancesFile(TypedDict):
    images: list[SizedImage]
    annotations: list[Outline]
    categories: list[Category]


PANOPTIC, INSTANCES = TypeAdapter(PanopticFile), TypeAdapter(InstancesFile)


class ClassMap(NamedTuple):
    """The class map of one photo that a source can draw."""

    draw: Callable[[], np.ndarray]  # [height, width] uint8, over the pixels as they are stored
    segments: int  # their number; a map of some segments that is all void is an error
    source: Path | None = None  # a file that it is drawn from, beside the JSON


class ClassMaps(NamedTuple):
    """The class maps that a source can draw, by photo id."""

    file: Path  # the JSON
    classes: tuple[str, ...]
    segments: int  # of all photos in the JSON
    maps: Mapping[str, ClassMap]

    def write(self, folder: Path, photos: Sequence[Photo]) -> dict[str, Path]:
        """An upright PNG for each photo that the source has, unless the folder has it already.

        A file's name holds a hash of all that it is drawn from, so maps of other annotations or other photos are
        never taken for these. Raises DataError once for all photos whose segmentation does not fit them.
        """
        matches = [photo for photo in photos if photo.id in self.maps]
        if photos and self.segments and not any(self.maps[photo.id].segments for photo in matches):
            raise DataError(f"{self.file}: none of its segments is of one of the {len(photos)} photos (image_id)")
        common = f"{DRAWING} {sha256(self.file)} {self.classes}"
        frames = {photo.id: photo_frame(photo.file) for photo in matches}
        upright = lie_upright(self.maps, frames)
        common += " upright" if upright else ""
        problems = Problems(str(self.file))
        files = {}
        for photo in matches:
            source = self.maps[photo.id].source
            try:
                content = f"{common} {frames[photo.id]} {source and sha256(source)}"
            except OSError as error:
                problems.add(f"{source}: the panoptic PNG cannot be read ({error}); unpack the archive of PNGs again")
                continue
            files[photo.id] = folder / f"{photo.id}.{hashlib.sha256(content.encode()).hexdigest()[:16]}.png"
        problems.raise_as(DataError)
        absent = [photo for photo, file in files.items() if not file.exists()]
        if absent:
            check_writable(CACHE, folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            console = Console(stderr=True)
            for photo in track(absent, "segmentation", console=console, transient=True, disable=not absent):
                try:
                    image = upright_map(self.maps[photo], frames[photo], upright=upright)
                except DataError as error:
                    problems.add(f"photo {photo}: {error}")
                    continue
                part = files[photo].with_name(f"{files[photo].name}.{os.getpid()}.part")
                image.save(part, "PNG")
                part.rename(files[photo])
        except OSError as error:  # a read-only or a full disk is no PermissionError
            raise cannot_write(CACHE, folder, error) from error
        problems.raise_as(DataError, "Take the annotations that belong to these photos.")
        return files


def lie_upright(maps: Mapping[str, ClassMap], frames: Mapping[str, Frame | None]) -> bool:
    """Whether class maps lie over the photos as they are displayed, by the photos whose shape tells.

    COCO outlines the stored pixels, so that is taken where none tells, with a warning. frames: by photo id.
    """
    turned = {name: frame for name, frame in frames.items() if frame and frame.orientation != UPRIGHT}
    telling = [name for name, frame in turned.items() if not same_shape(frame.stored, frame.displayed)]
    for name in telling[:TELLING]:
        try:
            height, width = maps[name].draw().shape
        except DataError:
            continue  # reported when it is drawn
        if same_shape((width, height), turned[name].displayed):
            return True
    if turned and not telling:
        log.warning(
            "%d photos have an EXIF orientation, and the shapes of their segmentations do not tell how they lie (%s): "
            "they are taken as outlines of the stored pixels and turned with the photos",
            len(turned),
            some(list(turned), 3),
        )
    return False


def upright_map(drawn: ClassMap, frame: Frame | None, *, upright: bool = False) -> Image.Image:
    """The map turned as its photo is: COCO outlines the pixels as they are stored, without the EXIF orientation.

    upright: maps that fit both ways are not turned. Raises DataError for a map that fits neither the stored nor the
    displayed photo, and for one that is all void although it has segments.
    """
    numbers = drawn.draw()
    if drawn.segments and (numbers == VOID).all():
        raise DataError(f"none of its {drawn.segments} segments has a pixel in the photo")
    image = Image.fromarray(numbers)
    if frame is None or (upright and same_shape(image.size, frame.displayed)):
        return image
    if same_shape(image.size, frame.stored):
        return frame.upright(image)
    if same_shape(image.size, frame.displayed):
        return image
    sizes = " and ".join(f"{width}x{height}" for width, height in (image.size, frame.displayed))
    raise DataError(f"segmentation and photo are of different shapes, {sizes}")


def numbered(path: Path, content: Any, form: TypeAdapter[Any]) -> tuple[tuple[str, ...], dict[int, int]]:
    """The class names in the order of the category ids, and the number of each id.

    Raises DataError once for all entries that have not the form of this kind of file.
    """
    if not isinstance(content, dict) or not {"categories", "annotations", "images"} <= set(content):
        raise DataError(f"{path}: expected `images`, `annotations` and `categories`; {AGAIN}")
    problems = Problems(str(path))
    problems.extend(json_faults(form, content))
    problems.raise_as(DataError, AGAIN)
    categories = sorted(content["categories"], key=lambda category: category["id"])
    if len(categories) >= VOID:
        raise DataError(f"{path}: {len(categories)} categories; class maps of 8 bits hold at most {VOID}")
    number = {category["id"]: row for row, category in enumerate(categories)}
    segments = (part for note in content["annotations"] for part in note.get("segments_info", [note]))
    unknown = {part["category_id"] for part in segments} - set(number)
    if unknown:
        raise DataError(f"{path}: category {some(sorted(unknown), 5)} is not among its `categories`")
    return tuple(category["name"] for category in categories), number


def panoptic_maps(path: Path, content: Any) -> ClassMaps:
    """Of `panoptic_*.json`, whose PNGs lie in the folder of the same name."""
    classes, number = numbered(path, content, PANOPTIC)

    def drawn(note: Mapping[str, Any]) -> ClassMap:
        file, segments = path.with_suffix("") / note["file_name"], note["segments_info"]
        return ClassMap(lambda: panoptic_classes(file, segments, number), len(segments), file)

    maps = {str(note["image_id"]): drawn(note) for note in content["annotations"]}
    return ClassMaps(path, classes, sum(part.segments for part in maps.values()), maps)


def panoptic_classes(file: Path, segments: list[Mapping[str, Any]], number: Mapping[int, int]) -> np.ndarray:
    """[height, width] uint8 of one panoptic PNG; a segment's id is red + 256 green + 65536 blue (panopticapi).

    Raises DataError for a damaged PNG and for pixels of segments that are not listed; 0 is void.
    """
    try:
        rgb = np.asarray(Image.open(file).convert("RGB"), np.int64)
    except OSError as error:
        raise DataError(
            f"{file}: the panoptic PNG cannot be read ({error}); unpack the archive of PNGs again"
        ) from error
    ids, inverse = np.unique(rgb @ np.array([1, 256, 65536]), return_inverse=True)
    class_of = {0: VOID} | {segment["id"]: number[segment["category_id"]] for segment in segments}
    unknown = [int(i) for i in ids if int(i) not in class_of]
    if unknown:
        raise DataError(f"{file}: pixels of segment {some(unknown)}, which its `segments_info` does not list")
    return np.array([class_of[int(i)] for i in ids], np.uint8)[inverse.reshape(rgb.shape[:2])]


def instance_maps(path: Path, content: Any) -> ClassMaps:
    """Of `instances_*.json`: smaller things are drawn over larger ones."""
    classes, number = numbered(path, content, INSTANCES)
    notes: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for note in content["annotations"]:
        notes[note["image_id"]].append(note)

    def drawn(image: Mapping[str, Any]) -> ClassMap:
        def draw() -> np.ndarray:
            try:
                return instance_classes(image["width"], image["height"], notes[image["id"]], number)
            except (ValueError, TypeError, KeyError, MemoryError) as error:
                raise DataError(f"{path}: the outlines of image {image['id']} cannot be drawn ({error})") from error

        return ClassMap(draw, len(notes[image["id"]]))

    maps = {str(image["id"]): drawn(image) for image in content["images"]}
    return ClassMaps(path, classes, len(content["annotations"]), maps)


def instance_classes(width: int, height: int, notes: list[Mapping[str, Any]], number: Mapping[int, int]) -> np.ndarray:
    """[height, width] uint8 of the outlines of one photo."""
    canvas = Image.new("L", (width, height), VOID)
    for note in sorted(notes, key=lambda note: -note["area"]):
        outline, value = note["segmentation"], number[note["category_id"]]
        if isinstance(outline, dict):
            canvas.paste(value, mask=Image.fromarray(run_lengths(outline) * np.uint8(255)))
            continue
        for polygon in outline:
            ImageDraw.Draw(canvas).polygon(polygon, fill=value)
    return np.asarray(canvas)


def run_lengths(outline: Mapping[str, Any]) -> np.ndarray:
    """[height, width] uint8 of COCO's run lengths: columns from the top, first a run of zeros."""
    height, width = outline["size"]
    counts = outline["counts"]
    counts = compressed_counts(counts) if isinstance(counts, str) else counts
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise DataError(f"run lengths of {sum(counts)} pixels, and {width}x{height} are {height * width}")
    values = np.arange(len(counts)) % 2
    return np.repeat(values, counts).reshape(width, height).T.astype(np.uint8)


def compressed_counts(text: str) -> list[int]:
    """Run lengths from the text that pycocotools writes: five bits a letter from `0`, each as a difference.

    >>> compressed_counts("23111")
    [2, 3, 1, 4, 2]
    """
    counts: list[int] = []
    value, bits = 0, 0
    for letter in text:
        code = ord(letter) - ord("0")
        if not 0 <= code < 64:
            raise DataError(f"{letter!r} in compressed run lengths")
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:  # the last letter of a number, with its sign
            value -= (1 << bits) if code & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, bits = 0, 0
    return counts
