"""The common `dataset_*.json` (after Karpathy and Fei-Fei, CVPR 2015): Flickr8k, Flickr30K, COCO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from threeshnet.annotations.common import file_lookup, finish, load_json, require, slice_dev, tidy
from threeshnet.annotations.forms import form_faults
from threeshnet.errors import DataError, Problems
from threeshnet.records import AnnotatedSet, Photo

SPLITS = ("train", "restval", "val", "test")


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
        entries = load_json(path, f"the annotations of {self.name}", self.name)
        entries = entries.get("images") if isinstance(entries, dict) else None
        if not isinstance(entries, list):
            raise DataError(f"{path}: expected an object with a list `images`; is it a dataset_*.json?")
        self._check(path, entries)
        splits = self._splits({entry["split"] for entry in entries})
        photos = [self._photo(raw, entry, splits) for entry in entries]
        if self.dev_photos and all(photo.split != "dev" for photo in photos):
            photos = slice_dev(photos, self.dev_photos, self.name)
        return self._without_faulty(photos, entries, raw)

    def _check(self, path: Path, entries: list[Any]) -> None:
        """Raise once for all entries that are not of the format's form."""
        problems = Problems(str(path))
        for number, entry in enumerate(entries):
            problems.extend(f"images[{number}]: {fault}" for fault in entry_faults(entry))
        problems.raise_as(DataError, "Correct these entries, or take the file from its source again.")

    def _splits(self, found: set[str]) -> dict[str, str]:
        held_out = {"val": "dev", "test": self.test_name} if "test" in found else {"val": self.test_name}
        return {"train": "train", "restval": "train", **held_out}

    def _photo(self, raw: Path, entry: Mapping[str, Any], splits: Mapping[str, str]) -> Photo:
        relative = Path(entry.get("filepath") or "") / entry["filename"]
        identity = entry["cocoid"] if "cocoid" in entry else relative.as_posix()
        captions = tuple(tidy(sentence["raw"]) for sentence in entry["sentences"])
        return Photo(str(identity), raw / self.images / relative, splits[entry["split"]], captions)

    def _without_faulty(self, photos: list[Photo], entries: list[Any], raw: Path) -> AnnotatedSet:
        exists, seen = file_lookup(), set[str]()
        kept: list[Photo] = []
        problems: list[str] = []
        for photo, entry in zip(photos, entries, strict=True):
            photo = self._located(photo, raw, exists)
            sentences = own_sentences(photo, entry, problems)
            if photo.id in seen:
                problems.append(f"photo {photo.id}: a second entry of this id left out")
            elif not exists(photo.file):
                problems.append(f"photo {photo.id}: {photo.file} does not exist; it and its captions left out")
            elif not sentences:
                problems.append(f"photo {photo.id}: left without a caption, so left out")
            else:
                seen.add(photo.id)
                kept.append(photo._replace(captions=sentences))
        return finish(self.name, kept, problems, raw)

    def _located(self, photo: Photo, raw: Path, exists: Any) -> Photo:
        elsewhere = raw / photo.file.relative_to(raw / self.images)
        return photo._replace(file=elsewhere) if not exists(photo.file) and exists(elsewhere) else photo


def entry_faults(entry: Any) -> list[str]:
    """What keeps one element of `images` from being read."""
    needed = {"filename": str, "split": str, "sentences": list}
    faults = list(form_faults(entry, needed, {"filepath": (str, NoneType), "cocoid": (int, str), "imgid": (int, str)}))
    if not faults and entry["split"] not in SPLITS:
        faults.append(f"split={entry['split'][:100]!r} does not exist; there are: {', '.join(SPLITS)}")
    for number, sentence in enumerate([] if faults else entry["sentences"]):
        faults += [f"sentences[{number}]: {fault}" for fault in form_faults(sentence, {"raw": object})]
    return faults


def own_sentences(photo: Photo, entry: Mapping[str, Any], problems: list[str]) -> tuple[str, ...]:
    """The photo's captions without the empty ones and those that say they belong to another photo."""
    kept = []
    for number, (caption, sentence) in enumerate(zip(photo.captions, entry["sentences"], strict=True)):
        owner = sentence.get("imgid", entry.get("imgid"))
        if "imgid" in entry and owner != entry["imgid"]:
            problems.append(f"photo {photo.id}: caption {number} is of photo imgid={owner}, left out")
        elif not caption:
            problems.append(f"photo {photo.id}: caption {number} is empty, left out")
        else:
            kept.append(caption)
    return tuple(kept)
