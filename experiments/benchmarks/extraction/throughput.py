"""Photos a second, memory, and the hours that a data set takes, for each extractor in its published size.

    python -m experiments.benchmarks.extraction.throughput rtdetr dinov2 --photos <folder> --count 32 --out result.csv

Weights are random, so nothing is fetched. Random weights find other regions and segments than trained ones; the
networks take the same time, what follows them (suppression, the merge of masks) may take somewhat more or less.
Each model is measured in a process of its own, whose peak memory is then its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from threeshnet.files import write_rows

from ..common import composed, in_own_process, peak_gb

PHOTOS = {"Flickr30K": 31_000, "COCO": 123_000}
SUFFIXES = (".jpg", ".jpeg", ".png")
COLUMNS = ("name", "group", "device", "precision", "threads", "batch", "count", "load", "forward", "photos_a_second")


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    options = parsed(arguments)
    if options.one:
        json.dump(measured(options.names[0], options), sys.stdout)
        return []
    rows = []
    for name in options.names:
        given = list(sys.argv[1:] if arguments is None else arguments)
        kept = [argument for argument in given if argument not in options.names]
        row = in_own_process(__spec__.name, name, *kept, "--one")
        rows.append(row | {f"hours_{name}": count / row["photos_a_second"] / 3600 for name, count in PHOTOS.items()})
    show(rows)
    if options.out:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        rounded = [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
        write_rows(Path(options.out), columns, rounded)
    return rows


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="options of conf/extractor and conf/segmentation")
    parser.add_argument("--photos", required=True, help="folder of photos")
    parser.add_argument("--count", type=int, default=32, help="photos that are timed, after one batch that is not")
    parser.add_argument("--batch", type=int, default=4, help="photos a step")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 is torch's own choice")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the network")
    parser.add_argument("--models", help="folder that keeps the models; a temporary one otherwise")
    parser.add_argument("--out", help="CSV file for the result")
    parser.add_argument("--one", action="store_true", help="measure the one name here and print JSON")
    return parser.parse_args(arguments)


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and memory of one extractor in this process."""
    import torch

    from threeshnet.features.photos import PhotoBatches

    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        group, extractor = build(name, Path(options.models or temporary))
        extractor = extractor.to(options.device).eval()
    photos = found_photos(Path(options.photos), options.count)
    steps = [
        list(range(first, min(first + options.batch, len(photos)))) for first in range(0, len(photos), options.batch)
    ]
    batches = PhotoBatches(photos, [extractor], steps)
    run(extractor, batches[0].inputs[0], options)
    load = forward = 0.0
    for number in range(len(steps)):
        started = time.perf_counter()
        loaded = batches[number]
        load += time.perf_counter() - started
        if loaded.damaged:
            raise SystemExit(f"{options.photos}: {loaded.damaged[0][1]}")
        started = time.perf_counter()
        run(extractor, loaded.inputs[0], options)
        forward += time.perf_counter() - started
    row: dict[str, Any] = dict(
        zip(COLUMNS, (name, group, options.device, options.precision, torch.get_num_threads()), strict=False)
    )
    row |= {"batch": options.batch, "count": len(photos), "load": load, "forward": forward}
    row["photos_a_second"] = len(photos) / (load + forward)
    row["peak_gb"] = peak_gb()
    if options.device == "cuda":
        row["peak_device_gb"] = torch.cuda.max_memory_allocated() / 2**30
    return row


def build(name: str, models: Path) -> tuple[str, Any]:
    """The group and the extractor of an option; a model of the hub from a folder in `models`."""
    from hydra.utils import instantiate

    from .base_models import EXTRACTORS, SEGMENTATIONS, save

    group = "segmentation" if name in SEGMENTATIONS else "extractor"
    settings = [f"{group}={name}", "data=folder"]
    if name in EXTRACTORS | SEGMENTATIONS:
        settings += [f"{group}.name={save(name, models / name)}", f"{group}.revision=null"]
    return group, instantiate(composed(*settings, command="data")[group])


def found_photos(folder: Path, count: int) -> list[Any]:
    from threeshnet.records import Photo

    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)[:count]
    if len(files) < count:
        raise SystemExit(f"{folder}: {len(files)} photos ({', '.join(SUFFIXES)}); --count={count} asks for more")
    return [Photo(file.name, file, "test", ()) for file in files]


def run(extractor: Any, inputs: Any, options: argparse.Namespace) -> None:
    """One batch, from uint8 pixels to arrays on the CPU, for which a GPU is waited."""
    import torch
    from pytorch_lightning.utilities import move_data_to_device

    moved = move_data_to_device(inputs, torch.device(options.device))
    mixed = torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bfloat16")
    with torch.inference_mode(), mixed:
        extractor(moved)


def show(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title="Loading and extracting in one process, one after the other")
    headings = ("", "load, s/photo", "network, s/photo", "photos/s", "peak, GB", *(f"{name}, h" for name in PHOTOS))
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        numbers = [row["load"] / row["count"], row["forward"] / row["count"], row["photos_a_second"]]
        numbers += [row.get("peak_device_gb", row["peak_gb"]), *(row[f"hours_{name}"] for name in PHOTOS)]
        table.add_row(row["name"], *(f"{number:.3g}" for number in numbers))
    Console().print(table)


if __name__ == "__main__":
    main()
