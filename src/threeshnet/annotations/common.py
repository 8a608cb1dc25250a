"""What the readers share: files that must be there, a listing of photos, captions worth keeping."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from threeshnet.errors import DataError, shortened
from threeshnet.records import AnnotatedSet, Photo

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


def missing(what: str, where: Path, name: str) -> DataError:
    """The error for raw data that is not there: what is missing, where it was looked for, the command to repeat."""
    return DataError(
        f"{what} is missing: looked for {where}. Put it there and run `make data DATA={name} RAW=<folder>`."
    )


def require(path: Path, what: str, name: str) -> Path:
    """`path`, when it exists; else a `DataError`."""
    if not path.exists():
        raise missing(what, path, name)
    return path


def load_json(path: Path, what: str, name: str) -> Any:
    """The content of a JSON file; a `DataError` names the file and the line where it is missing, unreadable or torn."""
    require(path, what, name)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: thousands of lists in each other
        raise DataError(f"{path} is not readable JSON ({error}); copy or download it again.") from error


def file_lookup() -> Callable[[Path], bool]:
    """A faster `Path.is_file` for many files in few folders: each folder is listed once."""
    listings: dict[Path, set[str]] = {}

    def exists(file: Path) -> bool:
        folder = file.parent
        if folder not in listings:
            listings[folder] = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        return file.name in listings[folder]

    return exists


def tidy(caption: object) -> str:
    """A caption on one line without zero bytes, surrounding or doubled blanks; empty where it is not text."""
    return " ".join(caption.replace("\0", " ").split()) if isinstance(caption, str) else ""


def slice_dev(photos: list[Photo], count: int, name: str) -> list[Photo]:
    """The same photos with the last `count` of `train` moved to `dev`."""
    train = [number for number, photo in enumerate(photos) if photo.split == "train"]
    if count >= len(train):
        raise DataError(
            f"dev_photos={count} would leave nothing to train on: {name} has {len(train)} train photos; "
            "set reader.dev_photos to a smaller number."
        )
    moved = set(train[len(train) - count :])
    return [photo._replace(split="dev") if number in moved else photo for number, photo in enumerate(photos)]


def finish(
    name: str, photos: Iterable[Photo], problems: Iterable[str], where: Path, classes: tuple[str, ...] = ()
) -> AnnotatedSet:
    """The set, or a `DataError` with the first reasons when no photo is left."""
    kept, reasons = tuple(photos), tuple(problems)
    if not kept:
        shown = "".join(f"\n  - {shortened(reason)}" for reason in reasons[:20])
        raise DataError(
            f"{name}: no photo with a caption was found under {where}.{shown}\nCheck the folder given as RAW=."
        )
    return AnnotatedSet(name=name, photos=kept, classes=classes, problems=reasons)
