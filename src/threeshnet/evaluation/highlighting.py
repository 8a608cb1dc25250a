"""Pictures of what a model looked at, for some images of a split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from threeshnet.batches.collate import collate_images
from threeshnet.encoders.hybrid import HybridEncoder
from threeshnet.encoders.image import ImageEncoder
from threeshnet.encoders.model import RetrievalModel
from threeshnet.errors import DataError
from threeshnet.evaluation.highlights import Attention, Highlight, attention_of_tokens, best_and_worst, draw
from threeshnet.evaluation.inspection import inspection
from threeshnet.features.photos import open_photo
from threeshnet.metrics.ranks import rank_similarity
from threeshnet.metrics.similarity import EmbeddingSimilarity
from threeshnet.records import ImageArrays
from threeshnet.runs.run import Run
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.collect import Embeddings

PHOTO_SIDE = 480  # pixels; photos are drawn smaller than this
BLANK = 224  # side of the grey stand-in for a photo that is not there


def draw_and_inspect(
    model: RetrievalModel, split: ShardedSplit, embeddings: Embeddings, *, fields: list[str], run: Run, count: int
) -> None:
    """Pictures of `count` images in the run directory, and what the model does with them and with the whole split."""
    draw_highlights(model, split, embeddings, fields=fields, run=run, count=count)
    files = {number: run.picture(split.name, number) for number in spread_evenly(split.images, count)}
    pictures = {number: file.relative_to(run.folder).as_posix() for number, file in files.items()}
    run.write_inspection(inspection(model, split, embeddings, fields=fields, pictures=pictures))


def draw_highlights(
    model: RetrievalModel, split: ShardedSplit, embeddings: Embeddings, *, fields: list[str], run: Run, count: int
) -> list[Path]:
    """PNGs of `count` images spread evenly over the split, named by their place in it."""
    numbers = spread_evenly(split.images, count)
    ranks = rank_similarity(EmbeddingSimilarity(*embeddings), split.owners).t2i
    arrays = split.read(numbers, fields)
    files = []
    for place, number in enumerate(numbers):
        rows = np.flatnonzero(split.owners == number)
        captions = {split.caption_texts[row]: int(ranks[row]) for row in rows}
        highlight = Highlight(
            image_id=split.image_ids[number],
            photo=_photo(split.image_path(number)),
            seg_map=None if arrays.seg_map is None else arrays.seg_map[place],
            class_names=split.manifest.class_names or [f"class {n}" for n in range(split.manifest.classes or 0)],
            branches=list(_branches(model, arrays, place, split.manifest.grid_size)),
            captions=best_and_worst(captions),
            candidates=split.images,
        )
        files.append(run.picture(split.name, number))
        draw(highlight, files[-1])
    return files


def spread_evenly(images: int, count: int) -> list[int]:
    """The numbers of `count` of so many images.

    >>> spread_evenly(10, 4), spread_evenly(2, 4)
    ([0, 3, 6, 9], [0, 1])
    """
    return np.unique(np.linspace(0, images - 1, num=min(count, images), dtype=int)).tolist()


def _branches(
    model: RetrievalModel, arrays: ImageArrays, place: int, grid_size: tuple[int, int] | None
) -> Iterator[Attention]:
    encoder = model.image_encoder
    branches = encoder.branches if isinstance(encoder, HybridEncoder) else {"": encoder}
    images = collate_images(_one(arrays, place)).to(model.device)
    for branch in branches.values():
        assert isinstance(branch, ImageEncoder)
        with torch.inference_mode():
            found = {name: value[0].float().cpu().numpy() for name, value in branch.highlights(images).items()}
        weights = found.get("semantic")
        of_regions = branch.source == "regions"
        yield Attention(
            title="regions" if of_regions else "cells",
            boxes=arrays.boxes[place] if of_regions and arrays.boxes is not None else None,
            grid_size=None if of_regions else grid_size,
            semantic=weights,
            spatial=attention_of_tokens(found["spatial"], weights) if "spatial" in found else None,
        )


def _one(arrays: ImageArrays, place: int) -> ImageArrays:
    """The image at `place` alone."""
    parts: Any = (None if part is None else part[place : place + 1] for part in arrays)
    return ImageArrays(*parts)


def _photo(file: Path) -> np.ndarray:
    """The photo [h, w, 3], or a grey square where it cannot be had: synthetic data have none, and photos move."""
    try:
        photo = open_photo(file)
    except DataError:
        return np.full((BLANK, BLANK, 3), 200, np.uint8)
    photo.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
    return np.asarray(photo)
