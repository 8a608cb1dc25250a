"""An inspection as what W&B shows: tables with pictures, curves and histograms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from threeshnet.errors import DataError
from threeshnet.features.photos import open_photo

PHOTO_SIDE = 480  # pixels


def media(inspected: Mapping[str, Any], folder: Path, photo: Callable[[int], Path]) -> dict[str, Any]:
    """What to log of an inspection by key; `photo` leads from an image's number to its file, which may be missing."""
    logged: dict[str, Any] = {
        "held_out/retrievals": retrieval_table(inspected["retrievals"], folder, photo),
        "held_out/confusions": confusion_table(inspected["confusions"]),
    }
    if pictures := highlight_pictures(inspected["retrievals"], folder):
        logged["held_out/highlights"] = pictures
    if inspected["pooling"]:
        logged["model/gpo_weights"] = pooling_table(inspected["pooling"])
    for source, histogram in inspected["semantic"].items():
        pair = np.asarray(histogram["counts"]), np.asarray(histogram["edges"])
        logged[f"model/vsem_weights_{source}"] = wandb.Histogram(np_histogram=pair)
    return logged


def highlight_pictures(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[wandb.Image]:
    """The pictures alone, for panels that compare runs."""
    there = [(row, folder / row["picture"]) for row in rows if (folder / row["picture"]).is_file()]
    return [wandb.Image(str(file), caption=f"{row['image']}, rank {row['i2t_rank']}") for row, file in there]


def retrieval_table(rows: Sequence[Mapping[str, Any]], folder: Path, photo: Callable[[int], Path]) -> wandb.Table:
    """One row an image: photo where it is there, highlight, rank, own captions with theirs, what stands first."""
    table = wandb.Table(["image", "photo", "highlight", "i2t rank", "own captions (t2i rank)", "top captions"])
    for row in rows:
        own = "\n".join(f"{caption['t2i_rank']}  {caption['caption']}" for caption in row["own"])
        mark = {True: "✓", False: "✗"}
        top = "\n".join(f"{mark[each['right']]} {each['similarity']:.3f}  {each['caption']}" for each in row["top"])
        picture = folder / row["picture"]
        highlight = wandb.Image(str(picture)) if picture.is_file() else None
        table.add_data(row["image"], _photo(photo(row["number"])), highlight, row["i2t_rank"], own, top)
    return table


def confusion_table(confusions: Mapping[str, Sequence[Mapping[str, Any]]]) -> wandb.Table:
    """The hardest of both directions."""
    columns = ["image", "caption", "wrong_image", "wrong_caption", "gap"]
    table = wandb.Table(["direction", *(column.replace("_", " ") for column in columns)])
    for direction, rows in confusions.items():
        for row in rows:
            table.add_data(direction, *(row[column] for column in columns))
    return table


def pooling_table(pooling: Mapping[str, Mapping[str, Sequence[float]]]) -> wandb.Table:
    """Weight of every position of the sorted values, by the size of the set."""
    table = wandb.Table(["pooling", "set size", "position", "weight"])
    for name, sizes in pooling.items():
        for size, weights in sizes.items():
            for position, weight in enumerate(weights, start=1):
                table.add_data(name, int(size), position, weight)
    return table


def _photo(file: Path) -> wandb.Image | None:
    try:
        photo = open_photo(file)
    except DataError:  # synthetic data have no photos, and photos move
        return None
    photo.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
    return wandb.Image(photo)
