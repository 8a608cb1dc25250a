"""The manifest of a shard folder: what is in it, what made it, and a checksum a file."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from threeshnet.errors import DataError, shortened
from threeshnet.files import write_json
from threeshnet.forms import PlainText, faults_of
from threeshnet.shards.remote import MANIFEST, address_of, is_remote, mirror
from threeshnet.shards.schema import BEYOND, FORMAT, Layout

log = logging.getLogger(__name__)

CARD = "card.html"  # a page for people, beside the manifest; `reports` writes it
STAND_IN = "synthetic"  # data set of random arrays in COCO's layout, for smoke tests of any experiment
MAKE_DATA = "make it with: make data DATA=<name> [RAW=<folder>] [OUT=<shards>]"
LEFT_OUT_LIST = "left_out.txt"  # of what has no row, beside the manifest
LONGEST_NAME = 200  # of a data set, a split or a shard, which are parts of file names
SHOWN_FAULTS = 5


def checked_name(name: str) -> str:
    """A name that stays in the folder that it is looked for in; ValueError for others.

    >>> checked_name("train-00000.h5")
    'train-00000.h5'
    >>> checked_name("../x.h5")
    Traceback (most recent call last):
    ValueError: '../x.h5' is not a plain name
    """
    short = 0 < len(name) <= LONGEST_NAME and name.isprintable()
    if short and PurePath(name).name == name and "\\" not in name and name not in (".", ".."):
        return name
    raise ValueError(f"{name[:LONGEST_NAME]!r} is not a plain name")


def printable(text: str) -> str:
    """One line that can be written as UTF-8: names of files may hold line breaks and bytes that are no text.

    >>> printable("two\\nlines and \\udcff")
    'two\\\\nlines and \\\\udcff'
    """
    escaped = text.replace("\r", "\\r").replace("\n", "\\n")
    return escaped.encode("utf-8", "backslashreplace").decode("utf-8")


Name = Annotated[str, AfterValidator(checked_name)]
Count = Annotated[int, Field(ge=0, lt=BEYOND)]


@dataclass(frozen=True)
class ShardEntry:
    """One shard file of a split."""

    __pydantic_config__: ClassVar = ConfigDict(strict=True, extra="forbid")

    file: Name
    images: Count
    captions: Count
    sha256: PlainText


@dataclass(frozen=True)
class SplitEntry:
    """One split: its counts and its shards in order."""

    __pydantic_config__: ClassVar = ConfigDict(strict=True)

    images: Count
    captions: Count
    shards: tuple[ShardEntry, ...]

    def wrong_totals(self) -> Iterator[str]:
        """Counts that are not the sums over its shards."""
        for count in ("images", "captions"):
            total = sum(getattr(shard, count) for shard in self.shards)
            if total != getattr(self, count):
                yield f"{getattr(self, count)} {count}, its shards {total}"


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says.

    A file is validated against these types, and unknown keys are ignored.
    """

    __pydantic_config__: ClassVar = ConfigDict(strict=True, extra="ignore")

    dataset: Name
    layout: Layout
    splits: Mapping[Name, SplitEntry]
    class_names: tuple[str, ...] = ()  # empty for published arrays without a table
    label_names: tuple[str, ...] = ()  # of the regions' labels, where a detector gave them
    extractors: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # field -> name, weights (sha256), …
    raw: PlainText = ""  # folder of the photos that `image/file` is relative to, as it was given
    left_out: tuple[str, ...] = ()  # photos and entries without a row, each with its reason
    config: Mapping[str, Any] = field(default_factory=dict)
    commit: PlainText = "unknown"
    fingerprint: PlainText = ""  # of the photos, captions and extractors; equal means the same shards
    masks: PlainText = ""  # hash over the content of the photos' masks; empty without masks
    format: Literal[1] = FORMAT
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # field -> `_target_` and arguments
    precision: PlainText = ""  # of the extractors, as Lightning names it; empty where nobody said it

    @property
    def fields(self) -> tuple[str, ...]:
        """Those of region, grid, seg that the shards hold."""
        return self.layout.fields

    @property
    def grid_size(self) -> tuple[int, int] | None:
        return self.layout.grid_size

    @property
    def classes(self) -> int | None:
        return self.layout.classes

    @property
    def class_table(self) -> str | None:
        """Hash of the class names, `unknown-C` where the source has no table, None without segmentation."""
        return class_table_hash(self.class_names, self.layout.classes)

    def photos(self, folder: Path) -> Path:
        """Where the photos of these shards in `folder` lie: `raw`, as it was said when they were made.

        A relative one began where `make data` was called: here, or in a folder above the shards.
        """
        raw = Path(self.raw)
        begins = [Path(), *folder.absolute().parents]
        return next((begin / raw for begin in begins if (begin / raw).is_dir()), raw)

    def save(self, folder: Path) -> Path:
        """Write `folder/manifest.json`, aside first."""
        content = asdict(self) | {"class_table": self.class_table, "fields": list(self.fields)}
        write_json(folder / MANIFEST, content)
        return folder / MANIFEST

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read `folder/manifest.json`; DataError when it is missing, torn or of another format."""
        file = Path(folder) / MANIFEST
        if not file.is_file():
            raise DataError(f"{file}: no manifest, so {folder} holds no finished shards; {MAKE_DATA}")
        try:
            return _parsed(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            reason = shortened(f"{type(error).__name__}: {error}", 500)  # not repr: it holds all that cannot be decoded
            raise DataError(f"{file}: not a manifest of format {FORMAT} ({reason}); {MAKE_DATA}") from error


def _parsed(text: str) -> Manifest:
    """The manifest in a JSON text; ValueError for what it should not say."""
    content = json.loads(text)
    if not isinstance(content, dict) or content.get("format") is True or content.get("format") != FORMAT:
        raise ValueError(f"format {content.get('format') if isinstance(content, dict) else type(content).__name__}")
    try:
        manifest = TypeAdapter(Manifest).validate_json(text)
    except ValidationError as error:
        raise ValueError("; ".join(faults_of(error)[:SHOWN_FAULTS])) from error
    if content.get("class_table") != manifest.class_table:
        raise ValueError("its class_table is not the hash of its class_names")
    return manifest


def class_table_hash(names: Sequence[str], classes: int | None) -> str | None:
    """sha256 over the class names in order; `unknown-C` without names; None without classes.

    >>> class_table_hash((), 133)
    'unknown-133'
    """
    if classes is None:
        return None
    if not names:
        return f"unknown-{classes}"
    if len(names) != classes:
        raise ValueError(f"{len(names)} class names for {classes} classes")
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def open_shards(folder: Path | str, dataset: str | None = None) -> Path:
    """The shard folder that a SHARDS argument means: itself, its `<dataset>`, or the only one below it.

    An address (`s3://bucket/coco`) is itself or its `<dataset>`; the folder is that of its copies on this machine.

    The only one below counts when it holds that data set or stands in for it (`synthetic`): shards of another data set
    are taken only when their own folder is named. Raises DataError, naming where was looked and the command that makes
    shards, when there is none or no single one.
    """
    if is_remote(folder):
        return _open_remote(str(folder), dataset)
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        return folder
    if dataset and (folder / dataset / MANIFEST).is_file():
        return folder / dataset
    below = sorted(file.parent for file in folder.glob(f"*/{MANIFEST}")) if folder.is_dir() else []
    if len(below) == 1 and _stands_for(below[0], dataset):
        return below[0]
    looked = [folder / MANIFEST, *([folder / dataset / MANIFEST] if dataset else [])]
    there = f"; there are: {', '.join(map(str, below))} (name one to use it)" if below else ""
    command = f"make data DATA={dataset or '<name>'} OUT={folder}"
    raise DataError(
        f"No shards of {dataset or 'a data set'}: looked for {', '.join(map(str, looked))}{there}; "
        f"make them with: {command}"
    )


def open_view(folder: Path, name: str) -> Path:
    """The shards `name` beside those in `folder`, or beside their address: another view of the same photos.

    Raises DataError without them.
    """
    own, address = Manifest.load(folder).dataset, address_of(folder)
    if address is not None:
        return _open_remote_view(address, own, name)
    beside = folder.parent / name
    if not (beside / MANIFEST).is_file():
        raise DataError(f"No shards of {name}: looked for {beside / MANIFEST}; make them with: {make_view(own, name)}")
    return beside


def view_name(dataset: str, number: int) -> str:
    """What the shards of a view are called: `flickr8k_view1`."""
    return f"{dataset}_view{number}"


def make_view(dataset: str, name: str) -> str:
    """The command that makes a view of a data set: that one alone where its name has a number."""
    _, _, number = name.rpartition(view_name(dataset, 0)[:-1])
    return f"make data DATA={dataset} ARGS='view=random_crop{f' views=[{number}]' if number.isdigit() else ''}'"


def _open_remote(address: str, dataset: str | None) -> Path:
    addresses = [address, *([f"{address.rstrip('/')}/{dataset}"] if dataset else [])]
    for each in addresses:
        if (folder := mirror(each)) is not None:
            return folder
    raise DataError(
        f"No shards: looked for {MANIFEST} at {', '.join(addresses)}; upload the folder that `make data` made"
    )


def _open_remote_view(address: str, own: str, name: str) -> Path:
    parent, _, _ = address.rpartition("/")
    if parent.endswith("/"):  # s3://bucket: its neighbours are other people's buckets
        raise DataError(f"No shards of {name}: nothing lies beside the root of a bucket; move {address} into a folder")
    if (folder := mirror(f"{parent}/{name}")) is None:
        raise DataError(
            f"No shards of {name}: looked for {MANIFEST} at {parent}/{name}; make them beside those of {own} with: "
            f"{make_view(own, name)} and upload that folder too"
        )
    return folder


def _stands_for(folder: Path, dataset: str | None) -> bool:
    own = Manifest.load(folder).dataset
    if dataset is None or own == dataset:
        return True
    if own == STAND_IN:
        log.warning("%s holds no shards of %s; the %s ones are taken", folder.parent, dataset, STAND_IN)
    return own == STAND_IN
