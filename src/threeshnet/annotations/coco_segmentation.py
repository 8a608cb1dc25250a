"""COCO's panoptic PNGs and instance outlines as 8-bit PNGs of class numbers (255 is void)."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import track

from threeshnet.annotations.forms import Forms, list_faults
from threeshnet.errors import DataError, Problems
from threeshnet.records import VOID


class ClassMaps(NamedTuple):
    """The class maps that a source can draw, by photo id."""

    classes: tuple[str, ...]
    draw: Mapping[str, Callable[[], np.ndarray]]  # photo id -> [height, width] uint8

    def write(self, folder: Path, wanted: Collection[str]) -> dict[str, Path]:
        """A PNG for each wanted photo that the source has; those in the folder already are not drawn again."""
        files = {photo: folder / f"{photo}.png" for photo in self.draw if photo in wanted}
        absent = [photo for photo, file in files.items() if not file.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for photo in track(
                absent, "segmentation", console=Console(stderr=True), transient=True, disable=not absent
            ):
                part = files[photo].with_name(f"{photo}.{os.getpid()}.part")
                Image.fromarray(self.draw[photo]()).save(part, "PNG")
                part.rename(files[photo])
        except PermissionError as error:
            raise DataError(
                f"cannot write class maps to {folder} ({error}); set reader.cache to another folder"
            ) from error
        return files


def numbered(path: Path, content: Any, images: Forms, annotations: Forms) -> tuple[tuple[str, ...], dict[int, int]]:
    """The class names in the order of the category ids, and the number of each id.

    Raises DataError once for all entries that have not the forms of this kind of file.
    """
    if not isinstance(content, dict) or not {"categories", "annotations", "images"} <= set(content):
        raise DataError(
            f"{path}: expected `images`, `annotations` and `categories`; take it from cocodataset.org again"
        )
    problems = Problems(str(path))
    problems.extend(list_faults(content, "categories", {"id": int, "name": str}))
    problems.extend(list_faults(content, "images", images))
    problems.extend(list_faults(content, "annotations", annotations))
    problems.raise_as(DataError, "Take the file from cocodataset.org again.")
    categories = sorted(content["categories"], key=lambda category: category["id"])
    if len(categories) >= VOID:
        raise DataError(f"{path}: {len(categories)} categories; class maps of 8 bits hold at most {VOID}")
    number = {category["id"]: place for place, category in enumerate(categories)}
    segments = [part for note in content["annotations"] for part in note.get("segments_info", [note])]
    unknown = {part["category_id"] for part in segments if isinstance(part, dict) and "category_id" in part} - set(
        number
    )
    if unknown:
        raise DataError(f"{path}: category {', '.join(map(str, sorted(unknown)[:5]))} is not among its `categories`")
    return tuple(category["name"] for category in categories), number


def panoptic_maps(path: Path, content: Any) -> ClassMaps:
    """Of `panoptic_*.json`, whose PNGs lie in the folder of the same name."""
    classes, number = numbered(path, content, {}, {"image_id": int, "file_name": str, "segments_info": list})
    segments = {"all": [part for note in content["annotations"] for part in note["segments_info"]]}
    problems = Problems(f"{path}: segments_info")
    problems.extend(list_faults(segments, "all", {"id": int, "category_id": int}))
    problems.raise_as(DataError, "Take the file from cocodataset.org again.")
    folder = path.with_suffix("")

    def drawer(note: Mapping[str, Any]) -> Callable[[], np.ndarray]:
        return lambda: panoptic_classes(folder / note["file_name"], note["segments_info"], number)

    return ClassMaps(classes, {str(note["image_id"]): drawer(note) for note in content["annotations"]})


def panoptic_classes(file: Path, segments: list[Mapping[str, Any]], number: Mapping[int, int]) -> np.ndarray:
    """[height, width] uint8 of one panoptic PNG; a segment's id is red + 256 green + 65536 blue (panopticapi)."""
    try:
        rgb = np.asarray(Image.open(file).convert("RGB"), np.int64)
    except OSError as error:
        raise DataError(
            f"{file}: the panoptic PNG cannot be read ({error}); unpack the archive of PNGs again"
        ) from error
    ids, inverse = np.unique(rgb @ np.array([1, 256, 65536]), return_inverse=True)
    class_of = {segment["id"]: number[segment["category_id"]] for segment in segments}
    return np.array([class_of.get(int(i), VOID) for i in ids], np.uint8)[inverse.reshape(rgb.shape[:2])]


def instance_maps(path: Path, content: Any) -> ClassMaps:
    """Of `instances_*.json`: smaller things are drawn over larger ones."""
    outlined = {"image_id": int, "category_id": int, "area": float, "segmentation": (list, dict)}
    classes, number = numbered(path, content, {"id": int, "width": int, "height": int}, outlined)
    notes: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for note in content["annotations"]:
        notes[note["image_id"]].append(note)

    def drawer(image: Mapping[str, Any]) -> Callable[[], np.ndarray]:
        def draw() -> np.ndarray:
            try:
                return instance_classes(image["width"], image["height"], notes[image["id"]], number)
            except (ValueError, TypeError, KeyError, MemoryError) as error:
                raise DataError(f"{path}: the outlines of image {image['id']} cannot be drawn ({error})") from error

        return draw

    return ClassMaps(classes, {str(image["id"]): drawer(image) for image in content["images"]})


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
    """[height, width] uint8 of COCO's uncompressed run lengths: columns from the top, first a run of zeros."""
    height, width = outline["size"]
    if not isinstance(outline["counts"], list):
        raise DataError("compressed run lengths in `segmentation`; COCO's own files hold lists of counts")
    values = np.arange(len(outline["counts"])) % 2
    return np.repeat(values, outline["counts"]).reshape(width, height).T.astype(np.uint8)
