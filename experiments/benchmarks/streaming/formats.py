"""The same samples in every format that is compared: random features of 36 regions, as a detector's ReLU gives them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from threeshnet.records import ImageArrays, Photo
from threeshnet.shards.manifest import Manifest, ShardEntry, SplitEntry
from threeshnet.shards.schema import layout_of_arrays
from threeshnet.shards.writer import ShardWriter

REGIONS, WIDTH = 36, 2048
IMAGE_BYTES = REGIONS * WIDTH * 2
IMAGES_PER_SHARD = 1000
APPEND = 50  # images written at a time
STAND_INS = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional")
COMPRESSIONS = ("gzip",)
OTHERS = {"webdataset": "webdataset", "litdata": "litdata", "mosaicml-streaming": "streaming"}  # package -> module


def samples(images: int, start: int = 0) -> Iterator[np.ndarray]:
    """[36, 2048] float16 of each image, from its number alone; half of the numbers are zero, as after a ReLU."""
    for number in range(start, start + images):
        generator = np.random.default_rng([7, number])
        yield np.maximum(generator.standard_normal((REGIONS, WIDTH), np.float32), 0).astype(np.float16)


def absent(package: str) -> str | None:
    """Why a package cannot be compared; None when it can."""
    module = OTHERS[package]
    if importlib.util.find_spec(module) is None:
        return "not installed"
    if module == "streaming" and "torchvision" not in sys.modules and not importlib.util.find_spec("torchvision"):
        _stand_in_for_torchvision()
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever its import raises is the reason to print
        return f"cannot be imported: {str(error).splitlines()[0][:60]}"
    return None


def _stand_in_for_torchvision() -> None:
    """MosaicML Streaming imports torchvision for data sets of pictures, which are not used here."""
    for name in STAND_INS:
        sys.modules.setdefault(name, StandIn(name))


class StandIn(ModuleType):
    """A module that has every class one asks for, each of them empty."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def save_shards(
    folder: Path,
    name: str,
    images: int,
    *,
    photo: Callable[[int], Photo],
    arrays: Callable[[range], ImageArrays],
    grid_size: tuple[int, int] | None = None,
    compression: str | None = None,
) -> None:
    """A data set of one split, from the photos and the arrays of images by number."""
    entries, layout = [], None
    split = photo(0).split
    for first in range(0, images, IMAGES_PER_SHARD):
        here = range(first, min(first + IMAGES_PER_SHARD, images))
        file, captions = folder / f"{split}-{first // IMAGES_PER_SHARD:05}.h5", 0
        with ShardWriter(file, grid_size=grid_size, compression=compression) as writer:
            for start in range(0, len(here), APPEND):
                numbers = here[start : start + APPEND]
                photos, made = list(map(photo, numbers)), arrays(numbers)
                writer.append(photos, made, [(1, 1)] * len(numbers))
                captions += sum(len(each.captions) for each in photos)
                layout = layout or layout_of_arrays(made, grid_size)
        entries.append(ShardEntry(file.name, len(here), captions, ""))
    assert layout is not None
    together = SplitEntry(images, sum(entry.captions for entry in entries), tuple(entries))
    Manifest(name, layout, {split: together}).save(folder)


def write_shards(folder: Path, images: int, compression: str | None = None) -> None:
    save_shards(
        folder,
        "bench",
        images,
        photo=lambda n: Photo(str(n), Path(f"{n}.jpg"), "train", (f"a photo {n}",)),
        arrays=lambda numbers: ImageArrays(regions=list(samples(len(numbers), numbers.start))),
        compression=compression,
    )


def write_files(folder: Path, images: int) -> None:
    for number, sample in enumerate(samples(images)):
        np.save(folder / f"{number:06}.npy", sample)


def write_one(folder: Path, images: int) -> None:
    file = np.lib.format.open_memmap(folder / "all.npy", "w+", np.float16, (images, REGIONS, WIDTH))
    for number, sample in enumerate(samples(images)):
        file[number] = sample
    file.flush()


def write_webdataset(folder: Path, images: int) -> None:
    webdataset: Any = importlib.import_module("webdataset")
    with webdataset.ShardWriter(f"{folder}/%05d.tar", maxcount=IMAGES_PER_SHARD, verbose=0) as sink:
        for number, sample in enumerate(samples(images)):
            sink.write({"__key__": f"{number:06}", "f16": sample.tobytes()})


def write_litdata(folder: Path, images: int) -> None:
    writer: Any = importlib.import_module("litdata.streaming.writer")
    sink = writer.BinaryWriter(str(folder), chunk_bytes=64 << 20)
    for number, sample in enumerate(samples(images)):
        sink[number] = sample
    sink.done()
    sink.merge(num_workers=1)


def write_mosaic(folder: Path, images: int) -> None:
    streaming: Any = importlib.import_module("streaming")
    columns = {"regions": f"ndarray:float16:{REGIONS},{WIDTH}"}
    with streaming.MDSWriter(out=str(folder), columns=columns) as sink:
        for sample in samples(images):
            sink.write({"regions": sample})


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "shards": write_shards,
    **{f"shards {name}": lambda folder, images, name=name: write_shards(folder, images, name) for name in COMPRESSIONS},
    "npy an image": write_files,
    "one npy": write_one,
    "webdataset": write_webdataset,
    "litdata": write_litdata,
    "mosaicml-streaming": write_mosaic,
}


def missing(name: str) -> str | None:
    """Why a format cannot be made here; None when it can."""
    return absent(name) if name in OTHERS else None


def made(name: str, folder: Path, images: int) -> Path:
    """The folder of a format, written when it is not there."""
    target = folder / f"{name.replace(' ', '-')}-{images}"
    if not target.is_dir():
        aside = target.with_name(f"{target.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        WRITERS[name](aside, images)
        os.sync()
        aside.rename(target)
    return target


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def evict(folder: Path) -> None:
    """Take the files of a folder out of the page cache, which needs no rights: they are clean and nobody maps them."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
