"""A folder of photos with captions in a text, CSV or JSON-lines file."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from threeshnet.annotations.captions import Line, read_captions
from threeshnet.annotations.common import finish, missing, require
from threeshnet.annotations.photo_files import PhotoFinder, normal, photo_files, relative_name
from threeshnet.annotations.semantic_masks import masks_of, read_classes
from threeshnet.errors import ConfigError, DataError, Problems
from threeshnet.records import AnnotatedSet, Photo

log = logging.getLogger(__name__)
CAPTION_FILES = tuple(f"captions.{ending}" for ending in ("txt", "csv", "jsonl"))
SPLITS = {"train": "train", "restval": "train", "val": "dev", "dev": "dev", "test": "test", "testall": "testall"}


class FolderReader:
    """Photos anywhere below a folder and one file of captions beside them.

    captions: the caption file, relative to the raw folder; by default the first of captions.txt, .csv, .jsonl.
    images: where the photos lie below the raw folder. A caption names its photo by the path below `images` or, where
    that is unique, by the bare file name. Without a split of its own a photo is put in train, dev or test by a hash of
    its path (`dev_percent`, `test_percent`), so adding photos moves no other.
    masks: a folder below the raw one with a semantic mask of each photo, under the photo's path with the ending .png:
    8 bits, a class number a pixel, 255 void, upright as the photo is displayed, of any size. classes: the names of
    classes 0, 1, 2 and so on, a text file with one a line, relative to the raw folder.
    """

    def __init__(
        self,
        *,
        name: str = "folder",
        captions: str | None = None,
        images: str = ".",
        dev_percent: int = 10,
        test_percent: int = 10,
        masks: str | None = None,
        classes: str | None = None,
    ) -> None:
        if min(dev_percent, test_percent) < 0 or dev_percent + test_percent > 100:
            raise ConfigError(
                f"dev_percent={dev_percent}, test_percent={test_percent}: 0 or more, 100 at most together"
            )
        if (masks is None) != (classes is None):
            raise ConfigError(
                f"masks={masks!r}, classes={classes!r}: a folder of masks and a file with the names of their classes "
                "(one a line, class 0 first) go together; give both, or null for both"
            )
        self.name, self.captions, self.images = name, captions, images
        self.masks, self.classes = masks, classes
        self.dev_percent, self.test_percent = dev_percent, test_percent

    def read(self, raw: Path) -> AnnotatedSet:
        """The photos that have a caption, in the order of their paths; what was left out is in `problems`.

        Raises `DataError` for missing files and, once for all of them, for lines of the wrong form.
        """
        raw = Path(raw)
        folder = require(raw / self.images, "the folder of photos", self.name)
        path = self._caption_file(raw)
        files = photo_files(folder, without=raw / self.masks if self.masks else None)
        problems: list[str] = []
        lines = matched(read_captions(path), files, (folder, raw), path.name, problems)
        self._check_splits(path, lines)
        photos = [self._photo(key, file, lines[key]) for key, file in files.items() if key in lines]
        problems += [f"photo {key}: has no caption, left out" for key in files if key not in lines]
        photos, classes = self._masked(raw, photos)
        return finish(self.name, photos, problems, raw, classes)

    def _masked(self, raw: Path, photos: list[Photo]) -> tuple[list[Photo], tuple[str, ...]]:
        """The photos with their masks, and the names of the classes; as they are without a folder of masks."""
        if self.masks is None or self.classes is None:
            return photos, ()
        classes = read_classes(require(raw / self.classes, "the file of class names", self.name))
        folder = require(raw / self.masks, "the folder of masks", self.name)
        masks = masks_of({photo.id: photo.file for photo in photos}, photo_files(folder), classes)
        return [photo._replace(segmentation=masks[photo.id]) for photo in photos], classes

    def _caption_file(self, raw: Path) -> Path:
        names = (self.captions,) if self.captions else CAPTION_FILES
        there = [name for name in names if (raw / name).is_file()]
        if len(there) > 1:
            log.warning(
                "%s is read, and %s is not; name another: data.reader.captions=", there[0], ", ".join(there[1:])
            )
        if there:
            return raw / there[0]
        raise missing(f"a file of captions ({', '.join(names)})", raw / names[0], self.name)

    def _check_splits(self, path: Path, lines: dict[str, list[Line]]) -> None:
        problems = Problems(str(path))
        for key, own in lines.items():
            named = {line.split for line in own if line.split}
            for split in sorted(named - set(SPLITS)):
                problems.add(f"photo {key}: split={split!r} does not exist; there are: {', '.join(SPLITS)}")
            if len({SPLITS.get(split) for split in named}) > 1:
                problems.add(f"photo {key}: its captions name several splits: {', '.join(sorted(named))}")
        problems.raise_as(DataError, "Correct the column `split`, or leave it out.")

    def _photo(self, key: str, file: Path, lines: list[Line]) -> Photo:
        named = next((line.split for line in lines if line.split), None)
        percent = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
        hashed = "dev" if percent < self.test_percent + self.dev_percent else "train"
        split = SPLITS[named] if named else "test" if percent < self.test_percent else hashed
        return Photo(key, file, split, tuple(line.caption for line in lines))


def matched(
    lines: list[Line], files: dict[str, Path], folders: Sequence[Path], source: str, problems: list[str]
) -> dict[str, list[Line]]:
    """The lines of each photo; empty captions and captions of no known photo are added to `problems`.

    `folders`: that of the photos, then the raw one; absolute paths are understood when they are below one of them.
    """
    by_name: dict[str, list[str]] = {}
    for key in files:
        by_name.setdefault(key.rsplit("/", 1)[-1], []).append(key)
    matches: dict[str, list[Line]] = {}
    finder = PhotoFinder()
    images, raw = (folder.absolute() for folder in folders)
    above = f"{images.relative_to(raw).as_posix()}/" if images.is_relative_to(raw) else ""  # `images/` of images/a.jpg
    for line in lines:
        name = normal(relative_name(line.file, *folders))
        name = name if name in files else name.removeprefix(above)
        keys = [name] if name in files else by_name.get(name, [])
        if not line.caption:
            problems.append(f"{source} line {line.number}: empty caption of {line.file}, left out")
        elif len(keys) != 1:
            several = f"{len(keys)} photos have this name, give its path"
            reason = several if keys else finder.why_not_read(folders[0], name)
            problems.append(f"{source} line {line.number}: caption of {line.file} left out ({reason})")
        else:
            matches.setdefault(keys[0], []).append(line)
    return matches
