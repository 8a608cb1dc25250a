"""MS-COCO as its own site has it: `captions_*.json`, photos a folder a split, panoptic or instance segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from threeshnet.annotations.coco_segmentation import ClassMaps, instance_maps, panoptic_maps
from threeshnet.annotations.common import finish, load_json, located, missing, require, slice_dev, tidy
from threeshnet.errors import ConfigError, DataError, Problems, one_of
from threeshnet.forms import PlainText, json_faults
from threeshnet.records import AnnotatedSet, Photo

SOURCES = ("none", "panoptic", "instances")
SPLITS = ("train", "dev", "test", "testall")


class Image(TypedDict):
    id: int
    file_name: PlainText
    width: NotRequired[int]
    height: NotRequired[int]


class Note(TypedDict):
    image_id: int
    caption: object  # what is no text is left out


class CaptionsFile(TypedDict):
    images: list[Image]
    annotations: list[Note]


CAPTIONS = TypeAdapter(CaptionsFile)


class CocoReader:
    """Photos and captions of COCO's own JSON files, in the order of their `images`.

    splits: ours -> COCO's, `{train: train2017, test: val2017}`. COCO keeps the captions of its test photos to itself,
    so val2017 is held out and, when `splits` names no dev, the last `dev_photos` of train are `dev`.
    segmentation: `panoptic` (133 classes), `instances` (80 classes, the rest void) or `none`; converted once to 8-bit
    class PNGs in `cache` (default: `segmentation_<source>` in the raw folder; say where when that is read-only).
    """

    def __init__(
        self,
        *,
        name: str,
        splits: Mapping[str, str],
        dev_photos: int = 0,
        segmentation: str = "none",
        cache: str | None = None,
    ) -> None:
        problems = Problems(f"the reader of {name}")
        problems.extend(one_of("splits", split, SPLITS) for split in splits if split not in SPLITS)
        if segmentation not in SOURCES:
            problems.add(one_of("segmentation", segmentation, SOURCES))
        if dev_photos < 0:
            problems.add(f"dev_photos={dev_photos}: a number of photos, 0 or more")
        problems.raise_as(ConfigError)
        self.name, self.splits, self.dev_photos = name, dict(splits), dev_photos
        self.segmentation, self.cache = segmentation, cache

    def read(self, raw: Path) -> AnnotatedSet:
        """The photos that are on disk and have a caption; what was left out is in `problems`.

        Raises `DataError` for missing or torn files and, once for all of them, for entries of the wrong form.
        """
        raw = Path(raw)
        require(raw, "the folder of raw data", self.name)
        photos: list[Photo] = []
        problems: list[str] = []
        for split, source in self.splits.items():
            photos += self._split(raw, split, source, problems)
        if self.dev_photos and "dev" not in self.splits:
            photos = slice_dev(photos, self.dev_photos, self.name)
        photos = located(photos, [raw], problems)
        if self.segmentation == "none":
            return finish(self.name, photos, problems, raw)
        photos, classes = self._segmented(raw, photos, problems)
        return finish(self.name, photos, problems, raw, classes)

    def _split(self, raw: Path, split: str, source: str, problems: list[str]) -> list[Photo]:
        path = annotation_file(raw, f"captions_{source}.json", self.name)
        photos = captioned_photos(path, load_json(path, f"the captions of {source}", self.name), split, problems)
        # how large a photo is displayed is seen when it is decoded
        return [photo._replace(file=Path(source) / photo.file, size=None) for photo in photos]

    def _segmented(self, raw: Path, photos: list[Photo], problems: list[str]) -> tuple[list[Photo], tuple[str, ...]]:
        """The photos with class PNGs, where the source has one, and the names of the classes."""
        cache = Path(self.cache) if self.cache else raw / f"segmentation_{self.segmentation}"
        sources = [self._maps(raw, source) for source in self.splits.values()]
        classes = sources[0].classes
        if any(maps.classes != classes for maps in sources):
            raise DataError(f"{raw}: {' and '.join(maps.file.name for maps in sources)} name other classes")
        files: dict[str, Path] = {}
        for split, maps in zip(self.splits, sources, strict=True):
            # the end of train may be dev
            own = [photo for photo in photos if photo.split == split or (split == "train" and photo.split == "dev")]
            files |= maps.write(cache, [photo for photo in own if photo.id not in files])
        bare = sum(photo.id not in files for photo in photos)
        if bare:
            problems.append(f"{bare} of {len(photos)} photos have no {self.segmentation} segmentation; kept without")
        return [photo._replace(segmentation=files.get(photo.id)) for photo in photos], classes

    def _maps(self, raw: Path, source: str) -> ClassMaps:
        path = annotation_file(raw, f"{self.segmentation}_{source}.json", self.name)
        content = load_json(path, f"the {self.segmentation} segmentation of {source}", self.name)
        return panoptic_maps(path, content) if self.segmentation == "panoptic" else instance_maps(path, content)


def annotation_file(raw: Path, file: str, name: str) -> Path:
    """A JSON file in `raw/annotations` (as COCO's archives unpack) or in `raw`."""
    for path in (raw / "annotations" / file, raw / file):
        if path.is_file():
            return path
    raise missing(file, raw / "annotations" / file, name)


def captioned_photos(path: Path, content: Any, split: str, problems: list[str]) -> list[Photo]:
    """The photos of a `captions_*.json` with their captions, each file as the JSON names it.

    What was left out is added to `problems`. Raises DataError once for everything that is not of COCO's form.
    """
    faults = Problems(f"{path}; is it a captions_*.json?")
    faults.extend(json_faults(CAPTIONS, content))
    faults.raise_as(DataError, "Take the file from cocodataset.org again.")
    captions: dict[int, list[str]] = {image["id"]: [] for image in content["images"]}
    for note in content["annotations"]:
        caption = tidy(note["caption"])
        if note["image_id"] not in captions:
            problems.append(f"{path.name}: a caption of the unknown photo {note['image_id']} left out")
        elif not caption:
            problems.append(f"{path.name}: photo {note['image_id']}: an empty caption left out")
        else:
            captions[note["image_id"]].append(caption)
    return [
        Photo(
            str(image["id"]),
            Path(image["file_name"]),
            split,
            tuple(captions[image["id"]]),
            size=(image["width"], image["height"]) if {"width", "height"} <= set(image) else None,
        )
        for image in content["images"]
    ]
