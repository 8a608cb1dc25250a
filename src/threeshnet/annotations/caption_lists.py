"""Captions without the photos: ids, splits and sentences for arrays that were published elsewhere.

The other readers leave out photos that are not on disk; here no photo is looked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from threeshnet.annotations.captions import read_captions
from threeshnet.annotations.coco import captioned_photos
from threeshnet.annotations.common import load_json, without_repr
from threeshnet.annotations.folder import SPLITS
from threeshnet.annotations.karpathy import dataset_entries, photo_of
from threeshnet.annotations.photo_files import normal
from threeshnet.errors import ConfigError, DataError, Problems, one_of
from threeshnet.records import AnnotatedSet, Photo

OURS = ("train", "dev", "test", "testall")
NUMBERINGS = ("cocoid", "imgid", "filename")  # keys of a dataset_*.json
LISTS = ("captions.txt", "captions.tsv", "captions.csv", "captions.jsonl")


def read_caption_lists(
    files: Sequence[Path], *, name: str, split: str | None = None, ids: str | None = None
) -> AnnotatedSet:
    """Photos of one or several caption files: `dataset_*.json`, COCO's `captions_*.json`, .txt, .tsv, .csv, .jsonl.

    ids: the key of a `dataset_*.json` that numbers the photos: cocoid, imgid or filename; None is cocoid where it is.
    split: puts every photo there. Without it the files' own hold: `val` is dev and COCO's 5,000 test images are
    testall in a `dataset_*.json`; of COCO's own files, train* is train and val* is test, since COCO keeps the captions
    of its test photos to itself. Raises DataError for files of another form or without splits.
    """
    if split is not None and split not in OURS:
        raise ConfigError(one_of("split", split, OURS) + ("; val is called dev here" if split == "val" else ""))
    if ids is not None and ids not in NUMBERINGS:
        raise ConfigError(one_of("ids", ids, NUMBERINGS))
    photos: list[Photo] = []
    problems: list[str] = []
    for file in files:
        if not file.is_file():
            raise DataError(f"captions={file}: there is no such file")
        is_json = file.suffix.lower() == ".json"
        photos += _json(file, split, problems, ids) if is_json else _lines(file, split, problems)
    return AnnotatedSet(name, tuple(photos), problems=tuple(problems))


def photo_ids(files: Sequence[Path], ids: str) -> list[str]:
    """The ids of all photos under another numbering; none where the files do not have it."""
    try:
        return [photo.id for photo in read_caption_lists(files, name="", split="train", ids=ids).photos]
    except ConfigError:
        return []


def caption_files_beside(folders: Sequence[Path]) -> list[Path]:
    """Caption files in these folders: one `dataset_*.json`, or all of COCO's `captions_*.json`, or one list.

    Raises DataError when the choice is not clear.
    """
    for patterns, several in ((("dataset*.json",), False), (("captions_*.json",), True), (LISTS, False)):
        files = sorted(file for folder in folders if folder.is_dir() for one in patterns for file in folder.glob(one))
        if len(files) > 1 and not several:
            raise DataError(f"captions: which of {', '.join(map(str, files))}? Name it with captions=<file>.")
        if files:
            return files
    return []


def _json(file: Path, split: str | None, problems: list[str], ids: str | None) -> Iterable[Photo]:
    content = load_json(file, "the captions", file.stem)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise DataError(f"{file}: no list `images`; expected a dataset_*.json or COCO's captions_*.json")
    if "annotations" not in content:
        return _dataset(file, content, split, problems, ids)
    chosen = split or ("train" if "train" in file.stem else "test" if "val" in file.stem else None)
    if chosen is None:
        raise DataError(f"{file}: neither train nor val in its name; say where its photos belong: split=test")
    return captioned_photos(file, content, chosen, problems)


def _dataset(file: Path, content: Any, split: str | None, problems: list[str], ids: str | None) -> list[Photo]:
    entries = dataset_entries(file, content)
    test = "testall" if any("cocoid" in entry for entry in entries) else "test"
    has_test = any(entry["split"] == "test" for entry in entries)
    ours = {"train": "train", "restval": "train", "val": "dev" if has_test else test, "test": test}
    photos = [photo_of(entry, split or ours[entry["split"]], problems) for entry in entries]
    if ids is None:
        return photos
    if lacking := sum(ids not in entry for entry in entries):
        raise ConfigError(f"ids={ids}: {lacking} of {len(entries)} images of {file} have none")
    return [photo._replace(id=str(entry[ids])) for photo, entry in zip(photos, entries, strict=True)]


def _lines(file: Path, split: str | None, left_out: list[str]) -> list[Photo]:
    captions: dict[str, list[str]] = {}
    splits: dict[str, set[str]] = {}
    for line in read_captions(file):
        name = normal(without_repr(line.file))
        if not line.caption:
            left_out.append(f"{file.name} line {line.number}: empty caption of {line.file}, left out")
            continue
        captions.setdefault(name, []).append(line.caption)
        splits.setdefault(name, set()).add(split or line.split or "")
    problems = Problems(str(file))
    for name, found in splits.items():
        if len(found) > 1:
            problems.add(f"photo {name}: its captions name several splits: {', '.join(sorted(found))}")
        elif not found <= set(SPLITS):
            problems.add(f"photo {name}: {one_of('split', next(iter(found)), SPLITS)}")
    problems.raise_as(DataError, "Add a column `split` (CSV, JSON lines), or put all photos in one: split=test")
    return [Photo(name, Path(name), SPLITS[next(iter(splits[name]))], tuple(own)) for name, own in captions.items()]
