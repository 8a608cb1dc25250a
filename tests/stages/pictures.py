"""Photos of random colours, arrays and shards of them, and cells by a slow twin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_lightning.plugins import Precision
from torch.utils.data import DataLoader

from threeshnet.features.extractor import Extractor
from threeshnet.features.photos import PhotoBatches
from threeshnet.features.predict import Extracted, ExtractedBatches, Extraction
from threeshnet.features.tiny import Tiny
from threeshnet.records import AnnotatedSet, ImageArrays, Photo
from threeshnet.shards.make import MadeShards, ShardSettings, make_shards

CLOSE = {"atol": 2e-3, "rtol": 4e-3}  # float16 ends at three digits, and sums run in another order in a batch


def picture(folder: Path, number: int, size: tuple[int, int] = (40, 30), **more: Path) -> Photo:
    """A photo of `size` (width, height) that depends on its number alone."""
    coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), np.uint8)
    file = folder / f"{number}.png"
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file)
    return Photo(str(number), file, "train", ("a caption",), **more)


def extract(extractor: Extractor, photos: list[Photo]) -> ImageArrays:
    """The arrays of undamaged photos, as one batch."""
    loaded = PhotoBatches(photos, [extractor], [range(len(photos))])[0]
    assert not loaded.damaged
    with torch.inference_mode():
        return extractor(loaded.inputs[0])


def extracted_twice(extractor: Extractor, photos: list[Photo]) -> tuple[Extracted, Extracted]:
    """One batch, extracted in a loading process, which has one thread, and here with two."""
    loaded = PhotoBatches(photos, [extractor], [range(len(photos))])
    extraction, threads = Extraction([extractor]), torch.get_num_threads()
    batches: Any = ExtractedBatches(loaded, extraction, Precision())
    (found,) = DataLoader(batches, batch_size=None, num_workers=1, collate_fn=Extracted._make)
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            return found, extraction.extracted(loaded[0])
    finally:
        torch.set_num_threads(threads)


def quiet_shards(
    annotated: AnnotatedSet, raw: Path, folder: Path, *, sources: Sequence[Extractor] | None = None, **settings: Any
) -> MadeShards:
    """Shards of the tiny extractor, or of `sources`; made in this process, on the CPU, without a progress bar."""
    quiet: dict[str, Any] = {"workers": 0, "accelerator": "cpu", "progress": False}
    given = ShardSettings(**quiet | settings)
    return make_shards(annotated, sources=sources or [Tiny()], folder=folder, raw=raw, settings=given)


def assert_alike(one: ImageArrays, other: ImageArrays) -> None:
    for name, values in one._asdict().items():
        others = getattr(other, name)
        if values is None:
            assert others is None
            continue
        for value, expected in zip(values, others, strict=True):
            np.testing.assert_allclose(value, expected, **CLOSE, err_msg=name)


def slow_cells(feature_map: np.ndarray, cells: int) -> np.ndarray:
    """Adaptive average pooling: the mean of all cells that an output cell touches, row by row."""
    _, height, width = feature_map.shape
    rows = [(row * height // cells, -(-(row + 1) * height // cells)) for row in range(cells)]
    columns = [(column * width // cells, -(-(column + 1) * width // cells)) for column in range(cells)]
    means = [feature_map[:, top:end, left:right].mean(axis=(1, 2)) for top, end in rows for left, right in columns]
    return np.stack(means)
