"""`ranks.npz`: the ranks of an evaluation, which a paired comparison of two models needs."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from threeshnet.errors import DataError, Problems
from threeshnet.files import replacing
from threeshnet.metrics.ranks import Ranks, check_owner

KINDS = {"i2t": "u", "t2i": "u", "owner": "u", "image_ids": "U"}  # NumPy's dtype kinds of the arrays
# NumPy raises TypeError for a file that is an array and no archive.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error)


class RankedItems(NamedTuple):
    """Ranks of all images and captions of a split, and which images and captions they belong to."""

    ranks: Ranks
    owner: Tensor  # [Q] int64, row of each caption's image
    image_ids: Sequence[str]  # [G]


def write_ranks(file: Path, items: RankedItems) -> None:
    """Writes `i2t` [G], `t2i` [Q], `owner` [Q] and `image_ids` [G] in the smallest integer types that fit."""
    arrays: dict[str, Any] = {"image_ids": np.array(items.image_ids, dtype=np.str_), "owner": _small(items.owner)}
    arrays |= {side: _small(ranks) for side, ranks in items.ranks._asdict().items()}
    with replacing(file) as partial, partial.open("wb") as opened:  # NumPy would add .npz to a name
        np.savez_compressed(opened, **arrays)


def read_ranks(file: Path) -> RankedItems:
    """Reads a file of `write_ranks`.  Raises DataError for a file that is missing, damaged or of another form."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in KINDS}
    except UNREADABLE as error:
        raise DataError(f"{file} cannot be read ({error}); evaluate again") from error
    problems = Problems(str(file))
    problems.extend(_faults(arrays))
    problems.raise_as(DataError, "Evaluate again.")
    i2t, t2i, owner = (torch.from_numpy(arrays[name].astype(np.int64)) for name in ("i2t", "t2i", "owner"))
    return RankedItems(Ranks(i2t, t2i), owner, arrays["image_ids"].tolist())


def _faults(arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Faults of the arrays."""
    strange = {name: array for name, array in arrays.items() if array.ndim != 1 or array.dtype.kind != KINDS[name]}
    if strange:
        yield from (f"{name} is {array.dtype} of shape {list(array.shape)}" for name, array in strange.items())
        return
    yield from (f"{name} holds a rank of 0; ranks count from 1" for name in ("i2t", "t2i") if not arrays[name].all())
    if len(arrays["image_ids"]) != len(arrays["i2t"]):
        yield f"{len(arrays['image_ids'])} image_ids for {len(arrays['i2t'])} images"
    try:
        check_owner(arrays["owner"].astype(np.int64), len(arrays["i2t"]), len(arrays["t2i"]))
    except DataError as error:
        yield str(error)


def _small(numbers: Tensor) -> np.ndarray:
    """Numbers in the smallest unsigned type that holds them."""
    array = torch.as_tensor(numbers).cpu().numpy()
    return array.astype(np.min_scalar_type(int(array.max())))
