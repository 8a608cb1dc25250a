"""Ways of reading all samples once. Each touches every byte and returns how many samples it saw."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from threeshnet.batches.dataset import CaptionDataset
from threeshnet.batches.loader import TrainingLoader
from threeshnet.batches.order import BlockOrder, CaptionBatches, Shuffle
from threeshnet.batches.readahead import Readahead
from threeshnet.batches.tokenizers import SPECIALS, Wordpieces
from threeshnet.shards.manifest import Manifest
from threeshnet.shards.reader import ShardedSplit

from .formats import COMPRESSIONS, IMAGE_BYTES, REGIONS, WIDTH

BATCH = 128
READ_BYTES = 1 << 20
BLOCK, WINDOW, READAHEAD = 32, 4096, 1280  # the suite's defaults
BUFFER = 1000  # samples that WebDataset mixes


def raw(folder: Path) -> int:
    """`read` of the same bytes, file by file: the limit."""
    buffer, total = bytearray(READ_BYTES), 0
    for file in sorted(folder.glob("*.h5")):
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := os.readv(descriptor, [buffer]):
            total += count
        os.close(descriptor)
    images = sum(split.images for split in Manifest.load(folder).splits.values())
    return images if total >= images * IMAGE_BYTES else 0


def batches_of(images: int, order: str) -> CaptionBatches:
    """One caption an image, so that an epoch reads each image once."""
    orders = {"blocks": BlockOrder(block_images=BLOCK, window_captions=WINDOW), "shuffle": Shuffle()}
    return CaptionBatches(images, batch_size=BATCH, seed=1, drop_last=False, order=orders.get(order))


def shards(folder: Path, *, order: str = "", ahead: bool = True, h5py: bool = False) -> int:
    """Our reader in one process; without an order the images in theirs."""
    split = ShardedSplit(folder, "train")
    if h5py:
        split._files.direct = lambda *_: None
    if not order:
        starts = range(0, split.images, BATCH)
        return sum(taken(split, np.arange(start, min(start + BATCH, split.images))) for start in starts)
    batches = batches_of(split.images, order)
    readahead = Readahead(splits=[split], fields=["region"], megabytes=READAHEAD if ahead else 0)
    readahead.start(batches.shares(), together=batches.batches_of_a_window)
    seen = 0
    for rows in batches.shares():
        seen += taken(split, rows)
        readahead.advance()
    readahead.stop()
    return seen


def taken(split: ShardedSplit, numbers: np.ndarray) -> int:
    regions = split.read(numbers, ["region"], extras=False).regions
    return len(regions or ())


def loader(folder: Path, *, order: str, workers: int) -> int:
    """The whole way to training: tokens, padding, worker processes, in our loader."""
    split = ShardedSplit(folder, "train")
    dataset = CaptionDataset(splits=[split], tokenizer=Wordpieces([*SPECIALS, "a", "photo"]), fields=["region"])
    readahead = Readahead(splits=[split], fields=["region"], megabytes=READAHEAD)
    options = {"num_workers": workers, "collate_fn": lambda batch: batch}
    batches = batches_of(split.images, order)
    return sum(len(batch.rows) for batch in TrainingLoader(dataset, batches=batches, readahead=readahead, **options))


def npy_files(folder: Path, *, shuffled: bool) -> int:
    files, out = sorted(folder.glob("*.npy")), np.empty((REGIONS, WIDTH), np.float16)
    for number in numbers_of(len(files), shuffled=shuffled):
        out[:] = np.load(files[number], mmap_mode="r")
    return len(files)


def one_npy(folder: Path, *, shuffled: bool) -> int:
    rows, out = np.load(folder / "all.npy", mmap_mode="r"), np.empty((REGIONS, WIDTH), np.float16)
    for number in numbers_of(len(rows), shuffled=shuffled):
        out[:] = rows[number]
    return len(rows)


def numbers_of(count: int, *, shuffled: bool) -> Iterator[int]:
    yield from (np.random.default_rng(1).permutation(count) if shuffled else np.arange(count)).tolist()


def webdataset(folder: Path, *, shuffled: bool) -> int:
    module: Any = importlib.import_module("webdataset")
    files = sorted(map(str, folder.glob("*.tar")))
    found = module.WebDataset(files, shardshuffle=len(files) if shuffled else False, empty_check=False)
    found = found.shuffle(BUFFER) if shuffled else found
    return sum(np.frombuffer(sample["f16"], np.float16).size == REGIONS * WIDTH for sample in found)


def litdata(folder: Path, *, shuffled: bool) -> int:
    module: Any = importlib.import_module("litdata")
    return sum(len(sample) == REGIONS for sample in module.StreamingDataset(str(folder), shuffle=shuffled))


def mosaic(folder: Path, *, shuffled: bool) -> int:
    module: Any = importlib.import_module("streaming")
    found = module.StreamingDataset(local=str(folder), shuffle=shuffled, batch_size=BATCH)
    return sum(len(sample["regions"]) == REGIONS for sample in found)


Way = tuple[str, str, Callable[[Path], int]]  # format, order, what reads it


def ways() -> dict[str, Way]:
    """Every row of the table by its name."""
    found: dict[str, Way] = {
        "raw read": ("shards", "sequential", raw),
        "threeshnet": ("shards", "sequential", shards),
        "threeshnet, blocks": ("shards", "blocks", lambda folder: shards(folder, order="blocks")),
        "threeshnet, perfect shuffle": ("shards", "shuffled", lambda folder: shards(folder, order="shuffle")),
        "threeshnet, blocks, no readahead": ("shards", "blocks", lambda f: shards(f, order="blocks", ahead=False)),
        "threeshnet, shuffle, no readahead": ("shards", "shuffled", lambda f: shards(f, order="shuffle", ahead=False)),
        "threeshnet through h5py, blocks": ("shards", "blocks", lambda f: shards(f, order="blocks", h5py=True)),
        "threeshnet, loader, 0 workers": ("shards", "blocks", lambda f: loader(f, order="blocks", workers=0)),
        "threeshnet, loader, 2 workers": ("shards", "blocks", lambda f: loader(f, order="blocks", workers=2)),
    }
    for name in COMPRESSIONS:
        found[f"threeshnet, {name}, blocks"] = (f"shards {name}", "blocks", lambda f: shards(f, order="blocks"))
    others = {"npy an image": npy_files, "one npy": one_npy, "webdataset": webdataset}
    for name, read in (others | {"litdata": litdata, "mosaicml-streaming": mosaic}).items():
        for shuffled in (False, True):
            order = "shuffled" if shuffled else "sequential"
            title = f"{name}, mmap" if "npy" in name else name
            found[f"{title}, {order}"] = (name, order, partial(read, shuffled=shuffled))
    return found
