"""What the readers share: files that must be there, JSON, captions, the photos that are kept."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from threeshnet.annotations.photo_files import PhotoFinder, normal
from threeshnet.errors import DataError, shortened
from threeshnet.records import AnnotatedSet, Photo

REPR_OF_BYTES = re.compile(r"""b(['"]).*\1""", re.DOTALL)


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
        return json.loads(path.read_bytes())  # bytes: with or without a byte order mark
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: thousands of lists in each other
        raise DataError(f"{path} is not readable JSON ({error}); copy or download it again.") from error


def tidy(caption: object) -> str:
    """A caption on one line without zero bytes, surrounding or doubled blanks; empty where it is not text.

    >>> tidy(" A  dog. "), tidy("b'A dog.'")
    ('A dog.', 'A dog.')
    """
    return " ".join(without_repr(caption).replace("\0", " ").split()) if isinstance(caption, str) else ""


def without_repr(text: str) -> str:
    """A text that was stored as Python shows bytes (`b'391895'`), undone; any other as it is."""
    if text.startswith(("b'", 'b"')) and REPR_OF_BYTES.fullmatch(text):
        with suppress(ValueError, SyntaxError):
            return ast.literal_eval(text).decode("utf-8")
    return text


def located(photos: Iterable[Photo], folders: Sequence[Path], problems: list[str]) -> list[Photo]:
    """The photos that are on disk, are met for the first time and have a caption; the others go to `problems`.

    `Photo.file` is the name of the photo below one of `folders`; the first that has it counts.
    """
    finder, seen = PhotoFinder(), set[str]()
    kept = []
    for photo in photos:
        files = [finder.find(folder, normal(photo.file.as_posix())) for folder in folders]
        file = next((file for file in files if isinstance(file, Path)), None)
        if photo.id in seen:
            problems.append(f"photo {photo.id}: a second entry of this id left out")
        elif file is None:
            why = f" ({files[0]})" if files[0] else ""
            missed = f"{folders[0] / photo.file} does not exist{why}"
            problems.append(f"photo {photo.id}: {missed}; it and its captions left out")
        elif not photo.captions:
            problems.append(f"photo {photo.id}: left without a caption, so left out")
        else:
            seen.add(photo.id)
            kept.append(photo._replace(file=file))
    return kept


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
