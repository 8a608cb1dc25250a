"""Arrays of images, as the shards give them, to the padded tensors that a model takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from threeshnet.records import ImageArrays, ImageBatch, TokenSet

Keep = Callable[[int, int], np.ndarray]  # (place in the batch, number of tokens) -> numbers of the tokens that stay


def collate_images(
    arrays: ImageArrays, places: np.ndarray | None = None, *, keep: Keep | None = None, as_stored: bool = False
) -> ImageBatch:
    """`arrays` as float32 tensors, class numbers of `seg_map` as uint8.

    `places` [B]: which of the images stands at each place of the batch, all of them once without. `keep` chooses tokens
    of each place: regions first, then grid cells; their boxes go with them. Padding rows are zero. With `as_stored`
    float16 stays float16, half the bytes to pad, to hand to another process and to copy to a device; `ImageBatch.to`
    widens it there.
    """
    regions, region_boxes = _with_boxes(arrays.regions, arrays.boxes, places, keep, as_stored)
    grid, grid_boxes = _with_boxes(arrays.grid, arrays.grid_boxes, places, keep, as_stored)
    return ImageBatch(
        regions=regions,
        grid=grid,
        seg_semantic=_tensor(arrays.seg_semantic, places, _float_type(arrays.seg_semantic, as_stored)),
        seg_map=_tensor(arrays.seg_map, places, torch.uint8),
        seg_categories=_tensor(arrays.seg_categories, places, torch.float32),
        region_boxes=region_boxes,
        grid_boxes=grid_boxes,
    )


def pad_sets(sets: Sequence[np.ndarray], *, keep: Keep | None = None, as_stored: bool = False) -> TokenSet:
    """Sets of vectors, each [n, D], as one float32 set (or `as_stored`) padded with zeros to the longest."""
    return _padded(sets, _chosen(sets, keep), as_stored=as_stored)


def _with_boxes(
    sets: Sequence[np.ndarray] | np.ndarray | None,
    boxes: Sequence[np.ndarray] | np.ndarray | None,
    places: np.ndarray | None,
    keep: Keep | None,
    as_stored: bool,
) -> tuple[TokenSet | None, Tensor | None]:
    """The set of a kind of token and the boxes [B, N, 4] of the tokens that stay."""
    if sets is None:
        return None, None
    tokens = _at(sets, places)
    kept = _chosen(tokens, keep)  # drawn once for both
    padded = _padded(tokens, kept, as_stored=as_stored)
    return padded, None if boxes is None else _padded(_at(boxes, places), kept).values


def _chosen(sets: Sequence[np.ndarray], keep: Keep | None) -> list[np.ndarray | None]:
    return [None if keep is None else keep(place, len(tokens)) for place, tokens in enumerate(sets)]


def _padded(sets: Sequence[np.ndarray], kept: Sequence[np.ndarray | None], *, as_stored: bool = False) -> TokenSet:
    """A loop, because copying set by set is what takes the time: a gather over all sets of 128 photos took longer."""
    lengths = [len(tokens) if chosen is None else len(chosen) for tokens, chosen in zip(sets, kept, strict=True)]
    width = sets[0].shape[1] if len(sets) else 0
    half = as_stored and len(sets) and sets[0].dtype == np.float16
    values = np.empty((len(sets), max(lengths, default=0), width), dtype=np.float16 if half else np.float32)
    for place, (tokens, chosen) in enumerate(zip(sets, kept, strict=True)):
        values[place, : lengths[place]] = tokens if chosen is None else tokens[chosen]
        values[place, lengths[place] :] = 0
    mask = np.arange(values.shape[1]) < np.array(lengths, dtype=np.int64)[:, None]
    return TokenSet(torch.from_numpy(values), torch.from_numpy(mask))


def _at(sets: Sequence[np.ndarray] | np.ndarray, places: np.ndarray | None) -> list[np.ndarray]:
    return [sets[place] for place in (range(len(sets)) if places is None else places)]


def _float_type(array: np.ndarray | None, as_stored: bool) -> torch.dtype:
    half = as_stored and array is not None and array.dtype == np.float16
    return torch.float16 if half else torch.float32


def _tensor(array: np.ndarray | None, places: np.ndarray | None, dtype: torch.dtype) -> Tensor | None:
    if array is None:
        return None
    tensor = torch.from_numpy(array)
    tensor = tensor if places is None else tensor[torch.from_numpy(places)]
    return tensor.to(dtype)
