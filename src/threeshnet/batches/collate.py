"""From the arrays of images, as shards hold them, to the padded tensors of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from threeshnet.records import ImageArrays, ImageBatch, TokenSet

Keep = Callable[[int, int], np.ndarray]  # (item of the batch, number of tokens) -> numbers of the tokens to keep


def collate_images(
    arrays: ImageArrays, rows: np.ndarray | None = None, *, keep: Keep | None = None, as_stored: bool = False
) -> ImageBatch:
    """`arrays` as float32 tensors, class numbers of `seg_map` as uint8.

    `rows` [B] is the image of each item of the batch; None takes every image once. `keep` chooses the tokens of each
    item, regions first, then grid cells; their boxes go with them. Padding rows are zero. With `as_stored` float16
    stays float16: half the bytes to pad, to pass to another process and to copy. `ImageBatch.to` widens it later.
    """
    regions, region_boxes = _with_boxes(arrays.regions, arrays.boxes, rows, keep, as_stored)
    grid, grid_boxes = _with_boxes(arrays.grid, arrays.grid_boxes, rows, keep, as_stored)
    half = as_stored and arrays.seg_semantic is not None and arrays.seg_semantic.dtype == np.float16
    return ImageBatch(
        regions=regions,
        grid=grid,
        seg_semantic=_tensor(arrays.seg_semantic, rows, torch.float16 if half else torch.float32),
        seg_map=_tensor(arrays.seg_map, rows, torch.uint8),
        seg_categories=_tensor(arrays.seg_categories, rows, torch.float32),
        region_boxes=region_boxes,
        grid_boxes=grid_boxes,
    )


def _with_boxes(
    sets: Sequence[np.ndarray] | np.ndarray | None,
    boxes: Sequence[np.ndarray] | np.ndarray | None,
    rows: np.ndarray | None,
    keep: Keep | None,
    as_stored: bool,
) -> tuple[TokenSet | None, Tensor | None]:
    """The set of one kind of token, and the boxes [B, N, 4] of the tokens that are kept."""
    if sets is None:
        return None, None
    tokens = _at(sets, rows)
    kept = _chosen(tokens, keep)  # drawn once for both
    padded = _padded(tokens, kept, as_stored=as_stored)
    return padded, None if boxes is None else _padded(_at(boxes, rows), kept).values


def _chosen(sets: Sequence[np.ndarray], keep: Keep | None) -> list[np.ndarray | None]:
    return [None if keep is None else keep(item, len(tokens)) for item, tokens in enumerate(sets)]


def _padded(sets: Sequence[np.ndarray], kept: Sequence[np.ndarray | None], *, as_stored: bool = False) -> TokenSet:
    """Sets of vectors, each [n, D], as one set [B, N, D] padded with zeros to the longest.

    A loop over sets: one gather over all sets of 128 photos was slower (experiments/benchmarks/streaming).
    """
    lengths = [len(tokens) if chosen is None else len(chosen) for tokens, chosen in zip(sets, kept, strict=True)]
    width = sets[0].shape[1] if len(sets) else 0
    half = as_stored and len(sets) and sets[0].dtype == np.float16
    values = np.empty((len(sets), max(lengths, default=0), width), dtype=np.float16 if half else np.float32)
    for item, (tokens, chosen) in enumerate(zip(sets, kept, strict=True)):
        values[item, : lengths[item]] = tokens if chosen is None else tokens[chosen]
        values[item, lengths[item] :] = 0
    mask = np.arange(values.shape[1]) < np.array(lengths, dtype=np.int64)[:, None]
    return TokenSet(torch.from_numpy(values), torch.from_numpy(mask))


def _at(sets: Sequence[np.ndarray] | np.ndarray, rows: np.ndarray | None) -> list[np.ndarray]:
    return [sets[row] for row in (range(len(sets)) if rows is None else rows)]


def _tensor(array: np.ndarray | None, rows: np.ndarray | None, dtype: torch.dtype) -> Tensor | None:
    if array is None:
        return None
    tensor = torch.from_numpy(array)
    tensor = tensor if rows is None else tensor[torch.from_numpy(rows)]
    return tensor.to(dtype)
