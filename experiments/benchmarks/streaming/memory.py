"""Peak memory of the loader against the size of the data set: rows in memory.csv beside this file.

    python -m experiments.benchmarks.streaming.memory --folder <empty folder with 6 GB>

Each row is a fresh process that goes through `steps` batches of the training loader. Sizes that have rows are skipped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import numpy as np

from threeshnet.files import read_rows
from threeshnet.records import ImageArrays, Photo

from ..common import add_row, in_own_process, proportional_bytes
from .compare import anonymous_bytes
from .formats import IMAGES_PER_SHARD, REGIONS, save_shards, size_of
from .tables import rewrite

HERE = Path(__file__).parent
CAPTIONS = 5
WORDS = tuple("a red dog runs over the grass beside two old men in front of their house".split())  # noqa: SIM905
SIZES = ((2_000, 256), (20_000, 256), (200_000, 256), (2_000, 2048), (20_000, 2048))  # images, width
COLUMNS = ["images", "captions", "width", "disk_gb", "workers", "start_method", "start_mb", "anonymous_mb", "file_mb"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the shards")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--most", type=int, default=200_000, help="images; larger sizes are left out")
    parser.add_argument("--watch", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.watch:
        print(json.dumps(watched(given.folder, int(given.watch[0]), given.watch[1], given.steps)))
        return
    file = given.out / "memory.csv"
    for images, width in SIZES:
        for workers, method in ((0, "fork"), (2, "fork"), (2, "spawn"), (8, "fork")):
            if images <= given.most and not has_row(file, images, width, workers, method):
                folder = write(given.folder / f"{images}-{width}", images, width)
                words = ["--folder", str(folder), "--steps", str(given.steps), "--watch", str(workers), method]
                facts = {"images": images, "captions": images * CAPTIONS, "width": width, "workers": workers}
                facts |= {"start_method": method, "disk_gb": round(size_of(folder) / 1e9, 3)}
                add_row(file, COLUMNS, facts | in_own_process(__spec__.name, *words))
    rewrite(given.out)


def watched(folder: Path, workers: int, method: str, steps: int) -> dict[str, float]:
    """MB: what the process has when everything is imported, and the most that it and its workers have afterwards."""
    import torch

    from threeshnet.batches.datamodule import BatchOptions, RetrievalDataModule, Splits
    from threeshnet.batches.tokenizers import SPECIALS, Wordpieces

    torch.set_num_threads(1)
    multiprocessing.set_start_method(method)
    start, peaks = anonymous_bytes(), [0, 0]
    module = RetrievalDataModule(
        folder,
        tokenizer=Wordpieces([*SPECIALS, *WORDS]),
        fields=["region"],
        splits=Splits(dev=None, test=None),
        batches=BatchOptions(workers=workers, batch_size=64, order="blocks"),
    )
    looked = 0.0
    for step, _ in enumerate(module.train_dataloader()):
        if time.perf_counter() - looked > 0.2:
            looked = time.perf_counter()
            peaks = [max(peaks[0], anonymous_bytes()), max(peaks[1], proportional_bytes("Pss_File:"))]
        if step == steps:
            break
    return {"start_mb": start / 1e6, "anonymous_mb": peaks[0] / 1e6, "file_mb": peaks[1] / 1e6}


def write(folder: Path, images: int, width: int) -> Path:
    """Shards of random regions, with five captions an image; made once."""
    if (folder / "manifest.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    pool = random.standard_normal((IMAGES_PER_SHARD + 50, 8, width), np.float32).astype(np.float16)  # any bytes do

    def photo(number: int) -> Photo:
        captions = (f"{' '.join(random.choice(WORDS, 9))} {number}" for _ in range(CAPTIONS))
        return Photo(f"{number:06}", Path(f"{number:06}.jpg"), "train", tuple(captions))

    def arrays(numbers: range) -> ImageArrays:
        starts = (number % IMAGES_PER_SHARD for number in numbers)
        return ImageArrays(regions=[np.resize(pool[start : start + 5], (REGIONS, width)) for start in starts])

    save_shards(folder, "memory", images, photo=photo, arrays=arrays)
    return folder


def has_row(file: Path, images: int, width: int, workers: int, method: str) -> bool:
    key = {"images": images, "width": width, "workers": workers, "start_method": method}
    return any(all(row[name] == str(value) for name, value in key.items()) for row in read_rows(file))


if __name__ == "__main__":
    main()
