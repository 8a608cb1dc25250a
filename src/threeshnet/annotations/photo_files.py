"""Photos on disk: which files are photos, where a named photo lies or why it does not, and how it is displayed."""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from PIL import Image

from threeshnet.errors import DataError, Problems

with suppress(ImportError):  # an extra; without it HEIC is reported when it is decoded
    import pillow_heif  # pyright: ignore[reportMissingImports]

    pillow_heif.register_heif_opener()

PHOTO_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif", ".heic", ".heif"),
}
COMPANION_FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", ".Trashes", ".Spotlight-V100", ".thumbnails"}
ORIENTATION = 0x0112  # tag of EXIF and TIFF
TIFF_SIZE = (256, 257)  # tags of a TIFF's stored width and height
UPRIGHT = 1
METHODS = {  # EXIF orientation -> what turns the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
EXCHANGED = (5, 6, 7, 8)  # orientations that exchange width and height
ASPECT_SLACK = 1.1  # a mask may be that much wider or narrower than its photo: sizes are rounded


class Frame(NamedTuple):
    """How a photo is stored and displayed; sizes are width, height in pixels."""

    stored: tuple[int, int]
    orientation: int  # of EXIF, 1 to 8

    @property
    def displayed(self) -> tuple[int, int]:
        """The size after the photo was turned upright."""
        width, height = self.stored
        return (height, width) if self.orientation in EXCHANGED else (width, height)

    def upright(self, image: Image.Image) -> Image.Image:
        """A picture over the stored pixels (outlines, masks), turned as the photo is."""
        method = METHODS.get(self.orientation)
        return image if method is None else image.transpose(method)


def frame_of(image: Image.Image) -> Frame:
    """The frame of an opened picture. Call it before its pixels are loaded: Pillow then turns TIFFs by itself.

    A PNG's EXIF may follow its pixels, so Pillow loads them first. That is done here, where damage raises.
    """
    if image.format == "PNG":
        image.load()
    try:
        orientation = image.getexif().get(ORIENTATION, UPRIGHT)
    except MemoryError:
        raise
    except Exception:  # many cameras and editors write faulty EXIF
        orientation = UPRIGHT
    orientation = orientation if orientation in METHODS else UPRIGHT
    width, height = image.size
    if image.format == "TIFF":
        tags = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
        width, height = (tags.get(tag, side) for tag, side in zip(TIFF_SIZE, (width, height), strict=True))
    return Frame((int(width), int(height)), orientation)


def photo_frame(file: Path) -> Frame | None:
    """The frame of a photo from its header; None for a damaged one, which is reported when it is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                return frame_of(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes have the same ratio of sides, apart from rounding."""
    stretch = (size[0] * other[1]) / (size[1] * other[0])
    return 1 / ASPECT_SLACK <= stretch <= ASPECT_SLACK


def normal(name: str) -> str:
    """A path with forward slashes and composed letters: macOS stores `é` as two characters, caption files as one."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./"))


def is_companion(name: str) -> bool:
    """Whether an operating system put this file or folder beside the data.

    >>> is_companion("._p1.jpg"), is_companion("@eaDir"), is_companion("p1.jpg")
    (True, True, False)
    """
    return name.startswith("._") or name in COMPANION_FOLDERS or name in (".DS_Store", "Thumbs.db", "desktop.ini")


def files_below(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Files with these endings anywhere below a folder, sorted, without companions; or the file itself."""
    endings = tuple(suffixes)
    if folder.is_file():
        return [folder] if folder.suffix.lower() in endings else []
    files = []
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_companion(name)]
        files += [Path(path, name) for name in names if name.lower().endswith(endings) and not is_companion(name)]
    return sorted(file for file in files if file.is_file() and file.suffix)


def photo_files(folder: Path, without: Path | None = None) -> dict[str, Path]:
    """Every photo below a folder by its path there, sorted; none of those below `without`.

    Raises DataError for names that differ in their Unicode form alone: a caption file cannot tell them apart.
    """
    photos: dict[str, Path] = {}
    problems = Problems(str(folder))
    for file in files_below(folder, PHOTO_SUFFIXES):
        if without is not None and file.is_relative_to(without):
            continue
        name = normal(file.relative_to(folder).as_posix())
        if name in photos:
            problems.add(f"{photos[name].name!a} and {file.name!a}: two photos, one name in Unicode")
        photos[name] = file
    problems.raise_as(DataError, "Rename one of each pair.")
    return dict(sorted(photos.items()))


def relative_name(name: str, *folders: Path) -> str:
    """A photo's name below the folder; an absolute path that lies below one of `folders` is made relative to it."""
    path = Path(name)
    for folder in folders if path.is_absolute() else ():
        for base in (folder, folder.absolute()):
            if path.is_relative_to(base):
                return path.relative_to(base).as_posix()
    return name


class Listing:
    """The names in one folder, and what else a wrong name may have meant."""

    def __init__(self, folder: Path) -> None:
        self.names: set[str] = set()
        self.fault = ""
        try:
            self.names = {entry.name for entry in os.scandir(folder)}
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            self.fault = f"{folder} cannot be listed ({error.strerror or error})"

    @cached_property
    def alike(self) -> dict[str, list[str]]:
        """Names by their form without case and ending, made at the first name that is absent."""
        found: dict[str, list[str]] = {}
        for name in sorted(self.names):
            found.setdefault(_plain(name), []).append(name)
        return found


def _plain(name: str) -> str:
    return normal(name.rpartition(".")[0] or name).casefold()


class PhotoFinder:
    """Finds photos by name below a folder; each folder on disk is listed once."""

    def __init__(self) -> None:
        self._listings: dict[Path, Listing] = {}

    def find(self, folder: Path, name: str) -> Path | str:
        """The file of a name below `folder`, or why there is none, as far as that shows."""
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute():
            return f"an absolute path that is not below {folder}; name photos by their path below it"
        path = folder
        for part in PurePosixPath(name).parts:
            if path not in self._listings:
                self._listings[path] = Listing(path)
            listing = self._listings[path]
            if part != ".." and part not in listing.names:
                alike = listing.alike.get(_plain(part), [])
                same = [other for other in alike if normal(other) == normal(part)]
                if len(same) != 1:
                    return listing.fault or _why_absent(path, part, alike, same)
                part = same[0]
            path /= part
        return path

    def why_not_read(self, folder: Path, name: str) -> str:
        """Why a reader that looks through the whole folder has no photo of this name."""
        path = self.find(folder, name)
        if isinstance(path, str):
            return f"no such photo; {path}" if path else "no such photo"
        between = [parent for parent in path.parents if parent.is_relative_to(folder) and parent != folder]
        if any(is_companion(part.name) for part in (path, *between)):
            return "a companion file of the operating system"
        if path.suffix.lower() not in PHOTO_SUFFIXES:
            return f"the ending {path.suffix!r} is not read; there are: {', '.join(sorted(PHOTO_SUFFIXES))}"
        if path.is_symlink() and not path.exists():
            return f"a link to {path.readlink()}, which is missing"
        linked = next((parent for parent in between if parent.is_symlink()), None)
        if linked is not None:
            return f"below {linked.relative_to(folder)}, a link to a folder, which is not followed; link the photos"
        return "no such photo" if path.is_file() else "not a file"


def _why_absent(folder: Path, part: str, alike: list[str], same: list[str]) -> str:
    if same:
        return f"{len(same)} files have this name in other Unicode forms; rename all but one"
    for other in alike:
        how = "in another case" if normal(other).casefold() == normal(part).casefold() else "with another ending"
        return f"{folder.name} has {other}, {how}"
    return ""
