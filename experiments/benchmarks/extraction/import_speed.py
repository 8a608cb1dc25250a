"""How fast `make import` is beside `cp` of the same bytes, and how much memory it takes.

python -m experiments.benchmarks.extraction.import_speed --images 20000 --folder /somewhere/with/three/times/the/space

Writes a precomputed set of random float32 regions, then copies and imports it in turns, each time until the bytes are
on the disk (fsync). Prints seconds, the ratio and the import's peak memory, and writes them as JSON where asked.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.lib import format as npy_format

from ..common import peak_gb

CHUNK = 64  # images made at a time
CAPTIONS = 5


def main() -> None:
    asked = arguments()
    with TemporaryDirectory(dir=asked.folder) as scratch:
        folder = Path(scratch)
        source = make_set(folder / "set", asked.images, asked.regions, asked.width)
        size = source.stat().st_size
        say(f"{asked.images} x {asked.regions} x {asked.width} float32: {size / 1e9:.2f} GB")
        start_up = imported(folder / "set", folder / "first", ["limit=1"])
        turns = [turn(folder, source) for _ in range(asked.turns)]
    copied, made = (statistics.median(side) for side in zip(*turns, strict=True))
    result = {
        "images": asked.images,
        "gigabytes": size / 1e9,
        "cp_seconds": [first for first, _ in turns],
        "import_seconds": [second for _, second in turns],
        "start_up_seconds": start_up,
        "ratio": made / copied,
        "ratio_without_start_up": (made - start_up) / copied,
        "import_megabytes_per_second": size / 1e6 / (made - start_up),
        "peak_megabytes": peak_gb(resource.RUSAGE_CHILDREN) * 2**30 / 1e6,
    }
    say(json.dumps(result, indent=1))
    if asked.out:
        Path(asked.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--regions", type=int, default=36)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--turns", type=int, default=3, help="how often cp and the import are timed")
    parser.add_argument("--folder", default=None, help="where the set and its copies go for the time being")
    parser.add_argument("--out", default=None, help="a JSON file for the result")
    return parser.parse_args()


def make_set(folder: Path, images: int, regions: int, width: int) -> Path:
    """`train_ims.npy` with captions and ids, chunk by chunk."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    file = folder / "train_ims.npy"
    with file.open("wb") as out:
        header = {"descr": "<f4", "fortran_order": False, "shape": (images, regions, width)}
        npy_format.write_array_header_1_0(out, header)
        for start in range(0, images, CHUNK):
            out.write(random.random((min(CHUNK, images - start), regions, width), np.float32).tobytes())
    captions = (f"image {image} caption {caption} .\n" for image in range(images) for caption in range(CAPTIONS))
    (folder / "train_caps.txt").write_text("".join(captions), encoding="utf-8")
    (folder / "train_ids.txt").write_text("".join(f"{image}\n" for image in range(images)), encoding="utf-8")
    return file


def turn(folder: Path, source: Path) -> tuple[float, float]:
    """Seconds of one copy and of one import."""
    os.sync()  # what was written before must not be waited for in here
    started = time.perf_counter()
    subprocess.run(["cp", str(source), str(folder / "copy.npy")], check=True)
    to_disk(folder / "copy.npy")
    copied = time.perf_counter() - started
    (folder / "copy.npy").unlink()
    return copied, imported(folder / "set", folder / "shards", [])


def imported(raw: Path, out: Path, more: list[str]) -> float:
    """Seconds of one import, start-up included."""
    os.sync()
    command = [sys.executable, "-m", "threeshnet", "import", f"raw={raw}", f"out={out}", "progress=false", *more]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for file in out.rglob("*.h5"):
        to_disk(file)
    seconds = time.perf_counter() - started
    shutil.rmtree(out)
    return seconds


def to_disk(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main()
