"""Reading rows from where they lie in the file: equal to h5py, and an error where the file gives out."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from threeshnet.errors import ConfigError, DataError
from threeshnet.records import ImageArrays, Photo
from threeshnet.shards import files
from threeshnet.shards.direct import direct_rows
from threeshnet.shards.files import ShardFiles, check_filters
from threeshnet.shards.reader import ShardedSplit
from threeshnet.shards.writer import filter_options

from ..shard_folders import write_folder

TYPES = (np.float16, np.float32, np.uint8, np.int64)


def make(folder: Path, shards: int = 3, images: int = 4) -> ImageArrays:
    """Shards of a train split of random regions and grids with a manifest; returns all arrays."""
    rng, written = np.random.default_rng(0), []
    for number in range(shards):
        regions = [rng.standard_normal((1 + image % 3, 5)).astype(np.float16) for image in range(images)]
        arrays = ImageArrays(regions=regions, grid=rng.standard_normal((images, 4, 6)).astype(np.float16))
        names = [f"{number}-{image}" for image in range(images)]
        written.append(([Photo(name, Path("x.jpg"), "train", (f"größe {name}", "b")) for name in names], arrays))
    write_folder(folder, written, options={"grid_size": (2, 2)})
    return ImageArrays(
        regions=[region for _, arrays in written for region in arrays.regions or []],
        grid=np.concatenate([arrays.grid for _, arrays in written if arrays.grid is not None]),
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(0, 30),
    chunk=st.none() | st.integers(1, 9),
    shape=st.sampled_from([(), (3,), (2, 3)]),
    dtype=st.sampled_from(TYPES),
    ends=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_rows_are_those_of_h5py(
    tmp_path: Path, rows: int, chunk: int | None, shape: tuple[int, ...], dtype: type, ends: tuple[int, int]
) -> None:
    first, end = sorted(min(place, rows) for place in ends)
    values = np.random.default_rng(0).integers(0, 100, (rows, *shape)).astype(dtype)
    layout = {"chunks": (chunk, *shape), "maxshape": (None, *shape)} if chunk else {}
    with h5py.File(tmp_path / "some.h5", "w") as opened:
        opened.create_dataset("rows", data=values, **layout)
        opened.create_dataset("after", data=np.zeros(3))
    with h5py.File(tmp_path / "some.h5") as opened:
        where = direct_rows(opened["rows"])  # pyright: ignore
    if where is None:
        assert not rows  # nothing lies anywhere
        return
    found = np.empty((end - first, *shape), dtype)
    descriptor = os.open(tmp_path / "some.h5", os.O_RDONLY)
    where.read_into(found, descriptor, first, end)
    os.close(descriptor)
    assert np.array_equal(found, values[first:end])
    pieces = list(where.pieces(first, end))
    assert all(start + size < after for (start, size), (after, _) in pairwise(pieces))


@pytest.mark.parametrize("options", [{"compression": "gzip"}, {"chunks": (2, 2)}, {"fletcher32": True}])
def test_what_is_not_rows_in_chunks_is_left_to_h5py(tmp_path: Path, options: dict) -> None:
    with h5py.File(tmp_path / "some.h5", "w") as opened:
        dataset = opened.create_dataset("rows", data=np.zeros((4, 6), np.float16), **options)
        opened.create_dataset("swapped", data=np.zeros(4, ">f4"))
        opened.create_dataset("text", data=["a"], dtype=h5py.string_dtype())
        opened.create_dataset("never written", shape=(4, 6), chunks=(2, 6), dtype=np.float16)
        assert [direct_rows(opened[name]) for name in opened if name != "rows"] == [None] * 3  # pyright: ignore
        assert direct_rows(dataset) is None


@pytest.mark.parametrize("most", [1, 2, 64])
def test_any_images_with_few_open_files_and_through_h5py_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    arrays = make(tmp_path)
    split, slow = ShardedSplit(tmp_path, "train"), ShardedSplit(tmp_path, "train")
    split._files._most = most
    monkeypatch.setattr(slow._files, "direct", lambda *_: None)
    for seed in range(5):
        numbers = np.random.default_rng(seed).integers(0, split.images, 7)
        for found in (split.read(numbers), slow.read(numbers)):
            assert found.grid is not None
            assert arrays.grid is not None
            assert found.regions is not None
            assert np.array_equal(found.grid, arrays.grid[numbers])
            for region, number in zip(found.regions, numbers, strict=True):
                assert np.array_equal(region, arrays.regions[number])  # pyright: ignore
    assert len(split._files._descriptors) <= most
    split.close()
    assert split.read([0]).regions is not None


def test_scores_are_read_only_when_they_are_asked_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = ImageArrays(
        regions=[rng.standard_normal((2, 5)).astype(np.float16)],
        boxes=[np.array([[0, 0, 1, 1]] * 2, np.float32)],
        scores=[np.ones(2, np.float32)],
    )
    write_folder(tmp_path, [([Photo("a", Path("a"), "train", ("a",))], arrays)])
    split = ShardedSplit(tmp_path, "train")
    few, all_there = split.read([0], extras=False), split.read([0])
    assert few.scores is None
    assert few.boxes is not None
    assert all_there.scores is not None


def test_a_shard_that_is_cut_short_or_gone_under_the_reader_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    split = ShardedSplit(tmp_path, "train")
    split.read([0])
    os.truncate(tmp_path / "train-00000.h5", 2048)
    with pytest.raises(DataError, match=r"train-00000.h5: (region|grid)/features, rows .*cut short(.|\n)*make verify"):
        split.read(list(range(4)))
    (tmp_path / "train-00001.h5").unlink()
    with pytest.raises(DataError, match=r"train-00001.h5: region/features, rows .*make verify"):
        split.read([5])


def test_a_folder_of_more_shards_than_open_files_keeps_few_of_them(tmp_path: Path) -> None:
    make(tmp_path, shards=12, images=1)
    split = ShardedSplit(tmp_path, "train")
    split._files = ShardFiles(split._path_of, most=3)
    opened = Path("/proc/self/fd")
    before = len(list(opened.iterdir())) if opened.is_dir() else 0
    split.read(range(12))  # pyright: ignore
    if before:
        assert len(list(opened.iterdir())) <= before + 3
    assert files.OPEN_FILES < 1024


def test_compressed_shards_hold_the_same_and_are_smaller(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    regions = [np.maximum(rng.standard_normal((36, 1024)), 0).astype(np.float16) for _ in range(4)]
    photos = [Photo(str(number), Path("x.jpg"), "train", ("a",)) for number in range(4)]
    arrays, sizes = ImageArrays(regions=regions), []
    for name, choice in (("plain", None), ("small", "gzip")):
        folder = tmp_path / name
        write_folder(folder, [(photos, arrays)], options={"compression": choice})
        with h5py.File(folder / "train-00000.h5") as opened:
            sizes.append(opened["region/features"].id.get_storage_size())  # pyright: ignore
        read = ShardedSplit(folder, "train").read([3, 0, 2], ["region"]).regions
        assert all(map(np.array_equal, read or [], (regions[3], regions[0], regions[2])))
    assert sizes[1] < sizes[0]
    with pytest.raises(ConfigError, match="compression='zip' does not exist; there are: gzip, null"):
        filter_options("zip")


def test_a_compression_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "some.h5", "w") as opened:
        dataset = opened.create_dataset("rows", data=np.zeros((4, 6)), compression="gzip")
        check_filters(dataset)
        monkeypatch.setattr("h5py.h5z.filter_avail", lambda _: False)
        with pytest.raises(DataError, match=r"some.h5: /rows is compressed by .*\(1\), .* pip install hdf5plugin"):
            check_filters(dataset)


# --- captions


def test_texts_of_a_split_are_like_a_list(tmp_path: Path) -> None:
    make(tmp_path)
    split = ShardedSplit(tmp_path, "train")
    assert split.image_ids == [f"{shard}-{image}" for shard in range(3) for image in range(4)]
    assert split.image_ids != split.image_files
    assert split.caption_texts[3:5] == ["b", "größe 0-2"]
    assert split.caption_texts[-2] == "größe 2-3"
    assert split.caption_tags == [""] * 24
    with pytest.raises(IndexError):
        split.caption_texts[24]
    split = ShardedSplit(tmp_path, "train")
    (tmp_path / "train-00002.h5").unlink()
    with pytest.raises(DataError, match=r"train-00002.h5: caption/text cannot be read"):
        _ = split.caption_texts
