"""What can be indexed: a folder of photos, the images of shards, or their captions."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from threeshnet.annotations.photo_files import photo_files
from threeshnet.annotations.semantic_masks import masks_of
from threeshnet.batches.collate import collate_images
from threeshnet.errors import CheckpointError, DataError
from threeshnet.files import sha256
from threeshnet.index.manifest import Kind
from threeshnet.index.objects import areas
from threeshnet.records import ImageArrays
from threeshnet.retriever import BATCH, Retriever, same_classes
from threeshnet.shards.leakage import split_prints
from threeshnet.shards.reader import ShardedSplit

EXIF, TAKEN = 0x8769, 0x9003  # the EXIF directory, and DateTimeOriginal in it
TEXTS_TOGETHER = 256
NO_PRINT = ("", 0)


class Item(NamedTuple):
    """One thing to index, as it is found before anything is read."""

    number: int  # in its source
    id: str
    file: str = ""  # relative to the source's `raw`
    caption: str | None = None
    bytes: int = 0
    mtime: int = 0  # nanoseconds
    key: str = ""  # of its content; empty where the file has to be read for it


class Encoded(NamedTuple):
    """Some items with their embeddings [n, D], facts by column of `rows.SCHEMA`, and the items that were damaged."""

    items: list[Item]
    embeddings: np.ndarray
    facts: dict[str, list[Any]]
    damaged: list[str]


class ItemSource(Protocol):
    @property
    def kind(self) -> Kind: ...

    @property
    def raw(self) -> str:
        """Folder that the files are relative to; empty where there is none."""
        ...

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def extractors(self) -> dict[str, dict[str, Any]]: ...

    def items(self) -> list[Item]: ...

    def key(self, item: Item) -> str:
        """Of the item's content: the same key, the same embedding."""
        ...

    def encode(self, items: Sequence[Item]) -> Iterator[Encoded]:
        """Batch by batch."""
        ...


class PhotoFolder:
    """Every photo below a folder, through the extractors that the model was trained on."""

    kind: Kind = "photos"

    def __init__(
        self,
        retriever: Retriever,
        folder: Path,
        *,
        masks: Path | None = None,
        batch_size: int = BATCH,
        workers: int = 0,
    ) -> None:
        """`masks` is a folder of 8-bit PNGs under the photos' paths, for a model of annotated segmentation."""
        if not folder.is_dir():
            raise DataError(f"raw={folder}: no such folder of photos")
        self.retriever, self.folder, self.masks = retriever, folder, masks
        self.batch_size, self.workers, self.raw = batch_size, workers, str(folder.absolute())
        self.files = photo_files(folder, without=masks)
        makers = retriever.makers
        self.class_names = next((maker.source.class_names for maker in makers if "seg" in maker.source.fields), ())
        self.extractors = {
            field: {**maker.source.identity(), "precision": maker.precision}
            for maker in makers
            for field in maker.source.fields
        }

    def items(self) -> list[Item]:
        if not self.files:
            raise DataError(f"raw={self.folder}: no photos below this folder")
        found = []
        for number, (name, file) in enumerate(self.files.items()):
            facts = file.stat()
            path = file.relative_to(self.folder).as_posix()
            found.append(Item(number, name, path, None, facts.st_size, facts.st_mtime_ns))
        return found

    def key(self, item: Item) -> str:
        return sha256(self.files[item.id])

    def encode(self, items: Sequence[Item]) -> Iterator[Encoded]:
        files = [self.files[item.id] for item in items]
        masks = None
        if self.masks is not None:
            own = {item.id: self.files[item.id] for item in items}
            masks = list(masks_of(own, photo_files(self.masks), self.class_names).values())
        made = self.retriever.image_arrays(
            files, masks=masks, batch_size=self.batch_size, workers=self.workers, fingerprints=True
        )
        for loaded, arrays in made:
            own = [items[number] for number in loaded.numbers]
            facts: dict[str, list[Any]] = facts_of(arrays, self.class_names, len(own))
            prints = loaded.fingerprints
            if prints is not None:
                facts["sha256"] = [digest.tobytes().hex() for digest in prints.sha256]
                facts["perceptual_hash"] = prints.perceptual_hash.tolist()
            facts["width"], facts["height"] = ([size[axis] for size in loaded.sizes] for axis in (0, 1))
            facts["taken"] = [taken(self.files[item.id], item.mtime) for item in own]
            embeddings = embeddings_of(self.retriever, arrays, len(own))
            yield Encoded(own, embeddings, facts, [why for _, why in loaded.damaged])


class ShardImages:
    """The images of a split, from their features."""

    kind: Kind = "images"

    def __init__(self, retriever: Retriever, split: ShardedSplit, *, batch_size: int = 64) -> None:
        """Raises CheckpointError where the model was trained with other classes or fields."""
        self.retriever, self.split, self.batch_size = retriever, split, batch_size
        manifest = split.manifest
        self.class_names, self.extractors = manifest.class_names, {k: dict(v) for k, v in manifest.extractors.items()}
        folder = manifest.photos(split.folder)
        self.raw = str(folder.absolute()) if folder.is_dir() else ""
        fields, table = retriever.card["fields"], retriever.card.get("class_table")
        if lacking := [field for field in fields if field not in manifest.fields]:
            raise CheckpointError(f"{retriever.name} reads {', '.join(lacking)}, which {split.folder} does not hold")
        if "seg" in fields and not same_classes(table, manifest.class_names) and table != manifest.class_table:
            raise CheckpointError(
                f"{retriever.name} was trained with the class table {str(table)[:12]}, and {split.folder} has "
                f"{str(manifest.class_table)[:12]}; index shards of the classes of the training"
            )

    def items(self) -> list[Item]:
        hashes = {shard.file: shard.sha256 for shard in self.split.manifest.splits[self.split.name].shards}
        found = []
        named: Any = zip(self.split.image_ids, self.split.image_files, strict=True)
        for number, (name, file) in enumerate(named):
            shard, row = self.split.home(number)
            size, mtime = _stat(Path(self.raw, file)) if self.raw else (0, 0)
            of_photo = f":{digest}" if (digest := self.prints.get(name, NO_PRINT)[0]) else ""
            found.append(Item(number, name, file, None, size, mtime, f"{hashes[shard]}:{row}{of_photo}"))
        return found

    @cached_property
    def prints(self) -> dict[str, tuple[str, int]]:
        """sha256 and perceptual hash of each photo that the shards know them of."""
        found = next((each for each in split_prints(self.split.folder) if each.split == self.split.name), None)
        if found is None:
            return {}
        digests = [digest.hex() for digest in found.digests.tolist()]
        return dict(zip(found.ids, zip(digests, found.hashes.tolist(), strict=True), strict=True))

    def key(self, item: Item) -> str:
        return item.key

    def encode(self, items: Sequence[Item]) -> Iterator[Encoded]:
        fields = self.retriever.card["fields"]
        sizes = self.split.sizes()
        for first in range(0, len(items), self.batch_size):
            own = list(items[first : first + self.batch_size])
            numbers = [item.number for item in own]
            arrays = self.split.read(numbers, fields, extras=False)
            facts = facts_of(arrays, self.class_names, len(own))
            facts["sha256"] = [item.key for item in own]
            facts["width"], facts["height"] = sizes[numbers].T.tolist()
            facts["perceptual_hash"] = [self.prints.get(item.id, NO_PRINT)[1] for item in own]
            facts["taken"] = [taken(Path(self.raw, item.file), item.mtime) if item.mtime else 0 for item in own]
            yield Encoded(own, embeddings_of(self.retriever, arrays, len(own)), facts, [])


class ShardCaptions:
    """The captions of a split: a photo finds sentences."""

    kind: Kind = "captions"
    class_names: Sequence[str] = ()

    def __init__(self, retriever: Retriever, split: ShardedSplit) -> None:
        self.retriever, self.split, self.raw = retriever, split, ""
        self.extractors: dict[str, dict[str, Any]] = {}

    def items(self) -> list[Item]:
        ids, files = list(self.split.image_ids), list(self.split.image_files)
        seen: Counter[int] = Counter()
        found = []
        for number, (owner, text) in enumerate(zip(self.split.owners.tolist(), self.split.caption_texts, strict=True)):
            key = hashlib.sha256(text.encode()).hexdigest()
            found.append(Item(number, f"{ids[owner]}#{seen[owner]}", files[owner], text, key=key))
            seen[owner] += 1
        return found

    def key(self, item: Item) -> str:
        return item.key

    def encode(self, items: Sequence[Item]) -> Iterator[Encoded]:
        for first in range(0, len(items), TEXTS_TOGETHER):
            own = list(items[first : first + TEXTS_TOGETHER])
            texts = [item.caption or "" for item in own]
            embeddings = self.retriever.encode_texts(texts, progress=False).numpy()
            yield Encoded(own, embeddings, {"sha256": [item.key for item in own]}, [])


def embeddings_of(retriever: Retriever, arrays: ImageArrays, count: int) -> np.ndarray:
    """Embeddings [count, D] float32; [0, 0] of nothing."""
    if not count:
        return np.zeros((0, 0), np.float32)
    return retriever.encode_images(collate_images(arrays, as_stored=True)).numpy()


def facts_of(arrays: ImageArrays, names: Sequence[str], count: int) -> dict[str, list[Any]]:
    """What the segmentation of `count` images holds, as columns."""
    facts: dict[str, list[Any]] = {}
    if arrays.seg_map is not None and count:
        facts["objects"] = [areas(seg_map) for seg_map in arrays.seg_map]
    if arrays.seg_categories is not None and count:
        facts["categories"] = [
            [class_name(names, int(number)) for number in np.flatnonzero(row)] for row in arrays.seg_categories
        ]
    return facts


def class_name(names: Sequence[str], number: int) -> str:
    """The name of a class; tables of published arrays may have none."""
    return names[number] if number < len(names) else f"class {number}"


def taken(file: Path, mtime: int) -> int:
    """When a photo was taken, in seconds: its EXIF date, else that of the file (`mtime`, in nanoseconds)."""
    try:
        with Image.open(file) as image:
            written = image.getexif().get_ifd(EXIF).get(TAKEN) if image.format != "PNG" else None
        return int(datetime.strptime(str(written)[:19], "%Y:%m:%d %H:%M:%S").timestamp())
    except MemoryError:
        raise
    except Exception:  # absent, or faulty as in many cameras and editors
        return mtime // 10**9


def _stat(file: Path) -> tuple[int, int]:
    try:
        facts = file.stat()
    except OSError:
        return 0, 0
    return facts.st_size, facts.st_mtime_ns
