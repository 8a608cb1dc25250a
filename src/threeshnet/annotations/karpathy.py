"""The common `dataset_*.json` (after Karpathy and Fei-Fei, CVPR 2015): Flickr8k, Flickr30K, COCO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from threeshnet.annotations.common import finish, load_json, located, require, slice_dev, tidy
from threeshnet.annotations.photo_files import relative_name
from threeshnet.errors import DataError, Problems
from threeshnet.forms import PlainText, json_faults
from threeshnet.records import AnnotatedSet, Photo


class Sentence(TypedDict):
    raw: object  # what is no text is left out


class Entry(TypedDict):
    filename: PlainText
    split: Literal["train", "restval", "val", "test"]
    sentences: list[Sentence]
    filepath: NotRequired[PlainText | None]
    cocoid: NotRequired[int | PlainText]
    imgid: NotRequired[int | PlainText]


class Dataset(TypedDict):
    images: list[Entry]


DATASET = TypeAdapter(Dataset)


class KarpathyReader:
    """Photos and captions of one `dataset_*.json`, in the order of the JSON.

    `restval` joins `train`. Where there is a `test` split, `val` is `dev` and `test` is called `test_name` (COCO's
    5,000 are `testall`). Where there is none, `val` is held out and the last `dev_photos` of train are `dev`.
    A photo is looked for in `raw/images`, then in `raw`, below its `filepath` where it has one (COCO: `val2014`).
    """

    def __init__(
        self, *, name: str, file: str, images: str = "images", dev_photos: int = 0, test_name: str = "test"
    ) -> None:
        if dev_photos < 0:
            raise DataError(f"dev_photos={dev_photos}: a number of photos, 0 or more")
        self.name, self.file, self.images, self.dev_photos, self.test_name = name, file, images, dev_photos, test_name

    def read(self, raw: Path) -> AnnotatedSet:
        """The photos that are on disk and have a caption; what was left out is in `problems`.

        Raises `DataError` for a missing or torn file and, once for all of them, for entries of the wrong form.
        """
        raw = Path(raw)
        require(raw, "the folder of raw data", self.name)
        path = raw / self.file
        entries = dataset_entries(path, load_json(path, f"the annotations of {self.name}", self.name))
        splits = {"train": "train", "restval": "train", "val": self.test_name}
        if any(entry["split"] == "test" for entry in entries):
            splits |= {"val": "dev", "test": self.test_name}
        problems: list[str] = []
        folders = [raw / self.images, raw]
        photos = [photo_of(entry, splits[entry["split"]], problems, *folders) for entry in entries]
        if self.dev_photos and all(photo.split != "dev" for photo in photos):
            photos = slice_dev(photos, self.dev_photos, self.name)
        return finish(self.name, located(photos, folders, problems), problems, raw)


def dataset_entries(path: Path, content: Any) -> list[Any]:
    """The `images` of a `dataset_*.json`. Raises DataError once for all entries of another form."""
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError(f"{path}: expected an object with a list `images`; is it a dataset_*.json?")
    problems = Problems(str(path))
    problems.extend(json_faults(DATASET, content))
    problems.raise_as(DataError, "Correct these entries, or take the file from its source again.")
    return content["images"]


def photo_of(entry: Mapping[str, Any], split: str, problems: list[str], *folders: Path) -> Photo:
    """The photo of an entry, its file as the entry names it, or below one of `folders` for an absolute path.

    Captions left out are added to `problems`.
    """
    file = Path(relative_name((Path(entry.get("filepath") or "") / entry["filename"]).as_posix(), *folders))
    identity = str(entry["cocoid"] if "cocoid" in entry else file.as_posix())
    return Photo(identity, file, split, own_sentences(identity, entry, problems))


def own_sentences(photo: str, entry: Mapping[str, Any], problems: list[str]) -> tuple[str, ...]:
    """The captions of an entry without the empty ones and those that say they belong to another photo."""
    kept = []
    for number, sentence in enumerate(entry["sentences"]):
        caption, owner = tidy(sentence["raw"]), sentence.get("imgid", entry.get("imgid"))
        if "imgid" in entry and owner != entry["imgid"]:
            problems.append(f"photo {photo}: caption {number} is of photo imgid={owner}, left out")
        elif not caption:
            problems.append(f"photo {photo}: caption {number} is empty, left out")
        else:
            kept.append(caption)
    return tuple(kept)
