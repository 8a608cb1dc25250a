"""Stages of data: published arrays to shards, shards to arrays, arrays to batches."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from threeshnet.batches.collate import collate_images
from threeshnet.cli.door import settings_of
from threeshnet.cli.imports import import_arrays
from threeshnet.records import ImageArrays

from ..common import composed
from ..extraction.import_speed import make_set, to_disk
from ..streaming.readers import raw
from .made_up import SETTINGS, arrays, keep, shards
from .stage import Case, Stage, World, copies


def importing(world: World, _: str) -> Case:
    """Float32 arrays to shards on the disk; the twin appends image by image, the floor copies the file."""
    images, width = world.count(400, 6), world.count(2048, 16)
    file = make_set(world.folder / "published", images, 36, width)
    out, twin, copy = (world.folder / name for name in ("imported", "plain.h5", "copy.npy"))
    words = [f"raw={file.parent}", f"out={out}", "progress=false"]
    settings: Any = settings_of("import", composed(*words, command="import"), words)

    def ours() -> None:
        shutil.rmtree(out, ignore_errors=True)
        with silent():
            import_arrays(settings)
        to_disk(next(out.rglob("*.h5")))

    def naive() -> None:
        with h5py.File(twin, "w") as opened:
            made = opened.create_dataset("region/features", (0, width), np.float32, maxshape=(None, width), chunks=True)
            for image in np.load(file, mmap_mode="r"):
                made.resize(len(made) + len(image), axis=0)
                made[-len(image) :] = image
        to_disk(twin)

    def floor() -> None:
        shutil.copyfile(file, copy)
        to_disk(copy)

    def same() -> Any:
        ours()
        naive()
        return tuple(features(made) for made in (next(out.rglob("*.h5")), twin))

    return Case(images, ours, naive, floor, "copy", 0.0, same)


def features(file: Path) -> np.ndarray:
    with h5py.File(file) as opened:
        made: Any = opened["region/features"]
        return made[:]


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without what commands print and log."""
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
    logging.disable(logging.NOTSET)


def reading(world: World, name: str) -> Case:
    """Images in random order from a warm shard, in batches; the twin reads image by image, the floor the whole file."""
    setting, images = world.settings[name], world.count(512, 12)
    split = shards(setting, world.folder / f"reading_{name}", images)
    parts = np.array_split(np.random.default_rng(0).permutation(images), max(1, images // setting.batch))

    def ours() -> ImageArrays:
        *_, last = (split.read(part, setting.fields, extras=False) for part in parts)
        return last._replace(grid_boxes=None)

    def naive() -> ImageArrays:
        with h5py.File(next(split.folder.glob("*.h5"))) as opened:
            *_, last = [one_by_one(opened, part) for part in parts]
        return last

    return Case(images, ours, naive, lambda: raw(split.folder), "raw read", 0.0)


def one_by_one(opened: Any, numbers: np.ndarray) -> ImageArrays:
    def rows(key: str) -> np.ndarray | None:
        return np.stack([opened[key][number] for number in numbers]) if key in opened else None

    regions: Any = None
    if "region/features" in opened:
        ends = opened["region/offsets"]
        regions = [opened["region/features"][ends[number] : ends[number + 1]] for number in numbers]
    seg: Any = {f"seg_{name}": rows(f"seg/{name}") for name in ("semantic", "map", "categories")}
    return ImageArrays(regions=regions, grid=rows("grid/features"), **seg)


def collating(world: World, name: str) -> Case:
    """Arrays to a padded batch with a fifth of the tokens dropped; the floor copies the batch."""
    setting = world.settings[name]
    made, kept = arrays(setting, setting.batch), keep()

    def ours() -> list[Any]:
        batch = collate_images(made, keep=kept, as_stored=True)
        sets = [tuple(part) for part in (batch.regions, batch.grid) if part is not None]
        return [*sets, batch.seg_semantic, batch.seg_map, batch.seg_categories]

    def naive() -> list[Any]:
        sets = [plain_set(part, kept) for part in (made.regions, made.grid) if part is not None]
        seg: Any = (made.seg_semantic, made.seg_map, made.seg_categories)
        return [*sets, *(torch.stack([torch.from_numpy(one) for one in part]) for part in seg)]

    return Case(setting.batch, ours, naive, copies(ours()), "copy", 0.0)


def plain_set(sets: Any, kept: Any) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = [torch.from_numpy(one)[torch.from_numpy(kept(item, len(one)))] for item, one in enumerate(sets)]
    padded = pad_sequence(tokens, batch_first=True)
    return padded, torch.stack([torch.arange(padded.shape[1]) < len(one) for one in tokens])


STAGES: dict[str, Stage] = {
    "import": Stage(importing, ("36 x 2048",)),
    "reading": Stage(reading, SETTINGS),
    "collating": Stage(collating, SETTINGS),
}
