"""ranks.npz: what goes in comes out, small, and what is no such file is refused by name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from threeshnet.errors import DataError
from threeshnet.metrics.rank_files import RankedItems, read_ranks, write_ranks
from threeshnet.metrics.ranks import Ranks

ITEMS = RankedItems(
    Ranks(torch.tensor([1, 300]), torch.tensor([2, 1, 2])),
    torch.tensor([0, 0, 1], dtype=torch.int32),
    ["größe", "写真"],
)

RANKS = "ranks.npz"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_ranks(tmp_path / RANKS, ITEMS)
    return tmp_path / RANKS


def test_what_goes_in_comes_out(file: Path) -> None:
    """The same ranks make the same file, of the smallest types that hold them."""
    found = read_ranks(file)
    for one, other in zip((*found.ranks, found.owner), (*ITEMS.ranks, ITEMS.owner), strict=True):
        assert one.dtype == torch.int64
        assert one.tolist() == other.tolist()
    assert found.image_ids == ITEMS.image_ids
    before = file.read_bytes()
    write_ranks(file, ITEMS)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [RANKS]
    with np.load(file) as archive:
        types = {name: archive[name].dtype.name for name in ("i2t", "t2i", "owner")}
    assert types == {"i2t": "uint16", "t2i": "uint8", "owner": "uint8"}


def small(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint8)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"i2t": small(0, 1)}, "i2t holds a rank of 0"),
        ({"t2i": np.array([1.5, 2, 3])}, "t2i is float64 of shape [3]"),
        ({"i2t": np.array(3, np.uint8)}, "i2t is uint8 of shape []"),
        ({"owner": small(0, 0, 7)}, "expected 0 to 1"),
        ({"owner": small(0, 0, 0)}, "1 images have no caption"),
        ({"t2i": small(1, 1)}, "expected [2] whole numbers"),
        ({"image_ids": np.array(["a"])}, "1 image_ids for 2 images"),
        ({"image_ids": np.array([{}, {}], dtype=object)}, "allow_pickle"),
    ],
)
def test_other_arrays_are_refused(file: Path, changed: dict[str, np.ndarray], said: str) -> None:
    with np.load(file) as archive:
        arrays = dict(archive)
    np.savez(file, **(arrays | changed))
    with pytest.raises(DataError) as refused:
        read_ranks(file)
    assert said in str(refused.value)
    assert str(file) in str(refused.value)


def test_torn_and_foreign_files_are_refused(file: Path) -> None:
    whole, array = file.read_bytes(), io.BytesIO()
    np.save(array, np.arange(3))
    cut = [whole[:end] for end in range(0, len(whole), 97)]
    for content in (*cut, whole[:60] + bytes(30) + whole[90:], array.getvalue()):
        file.write_bytes(content)
        with pytest.raises(DataError, match="evaluate again"):
            read_ranks(file)
    np.savez(file, i2t=np.ones(2, np.uint8))
    with pytest.raises(DataError, match="t2i"):
        read_ranks(file)
