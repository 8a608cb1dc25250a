"""Writing and reading shards: what goes in comes out, in any order, in any process, and faults are named."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from threeshnet.errors import DataError
from threeshnet.records import ImageArrays, Photo
from threeshnet.shards.manifest import Manifest, ShardEntry, SplitEntry, class_table_hash, open_shards
from threeshnet.shards.reader import ShardedSplit
from threeshnet.shards.writer import ShardWriter

from ..shard_folders import write_folder, write_shard

RAW = Path("raw")
OPTIONS: Any = {"raw": RAW, "grid_size": (2, 3)}
CLASSES = 5
LABELS = 300  # more than 8 bits count


def photos_of(count: int, start: int = 0) -> list[Photo]:
    return [
        Photo(f"id{n}", RAW / f"{n}.jpg", "train", (f"first {n}", f"second {n} 😀"), ("what", "both"), size=(3, 2))
        for n in range(start, start + count)
    ]


def arrays_of(count: int, seed: int = 0, lengths: list[int] | None = None) -> ImageArrays:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 37, count).tolist() if lengths is None else lengths
    corners = [np.sort(rng.random((length, 2, 2), np.float32), axis=1) for length in lengths]
    return ImageArrays(
        regions=[rng.standard_normal((length, 6)).astype(np.float16) for length in lengths],
        boxes=[corner.reshape(-1, 4) for corner in corners],
        scores=[rng.random(length, np.float32) for length in lengths],
        grid=rng.standard_normal((count, 6, 8)).astype(np.float16),
        seg_semantic=rng.random((count, CLASSES, 7, 7)).astype(np.float16),
        seg_map=rng.integers(0, CLASSES, (count, 64, 64), np.uint8),
        seg_categories=rng.integers(0, 2, (count, CLASSES), np.uint8),
        labels=[rng.integers(0, LABELS, length).astype(np.int16) for length in lengths],
    )


def write(path: Path, photos: list[Photo], arrays: ImageArrays) -> Path:
    return write_shard(path, photos, arrays, **OPTIONS).path


def make_folder(folder: Path, counts: tuple[int, ...] = (5, 1, 4), name: str = "toy") -> ImageArrays:
    """Shards of a train split with a manifest; returns all arrays."""
    arrays = arrays_of(sum(counts))
    ends = np.cumsum(counts).tolist()
    shards = [(photos_of(end - start, start), part_of(arrays, start, end)) for start, end in pairwise([0, *ends])]
    tables = {"class_names": tuple(f"class {number}" for number in range(CLASSES))}
    tables |= {"label_names": tuple(f"thing {number}" for number in range(LABELS))}
    write_folder(folder, shards, name=name, options=OPTIONS, **tables)
    return arrays


def part_of(arrays: ImageArrays, start: int, end: int) -> ImageArrays:
    return ImageArrays(*(None if values is None else values[start:end] for values in arrays))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_folder(tmp_path)
    return tmp_path


def assert_equal(found: ImageArrays, expected: ImageArrays, numbers: list[int]) -> None:
    for name, values in expected._asdict().items():
        if name == "grid_boxes":  # follow from the manifest's rows and columns
            continue
        read = getattr(found, name)
        assert len(read) == len(numbers)
        for place, number in enumerate(numbers):
            np.testing.assert_array_equal(read[place], values[number], err_msg=name)
            assert read[place].dtype == values[number].dtype


@pytest.mark.parametrize("numbers", [[0], [9, 0, 5, 5, 4, 3, 6], list(range(10)), list(range(9, -1, -1)), [5, 5, 5]])
def test_any_images_in_any_order(tmp_path: Path, numbers: list[int]) -> None:
    arrays = make_folder(tmp_path)
    assert_equal(ShardedSplit(tmp_path, "train").read(numbers), arrays, numbers)


def test_the_split_knows_its_captions(folder: Path) -> None:
    split = ShardedSplit(folder, "train")
    assert (split.images, split.captions, len(split)) == (10, 20, 10)
    assert split.owners.tolist() == [number for number in range(10) for _ in range(2)]
    assert split.owners.dtype == np.int32
    assert split.caption_texts[11] == "second 5 😀"
    assert split.caption_tags[:2] == ["what", "both"]
    assert split.image_ids == [f"id{number}" for number in range(10)]
    assert split.image_files[9] == "9.jpg"
    assert split.sizes().tolist() == [[3, 2]] * 10
    assert split.manifest.grid_size == (2, 3)


def test_some_fields_and_no_images(folder: Path) -> None:
    split = ShardedSplit(folder, "train")
    read = split.read([1], fields=["seg"])
    assert (read.grid, read.regions) == (None, None)
    assert read.seg_map is not None
    empty = split.read([])
    assert empty.grid is not None
    assert (empty.grid.shape, empty.regions) == ((0, 6, 8), [])


def test_wrong_numbers_and_fields_are_refused(folder: Path) -> None:
    split = ShardedSplit(folder, "train")
    with pytest.raises(IndexError, match="10"):
        split.read([10])
    with pytest.raises(DataError, match="there are: region, grid, seg"):
        split.read([0], fields=["regions"])
    with pytest.raises(DataError, match=r"split='val' does not exist; there are: train"):
        ShardedSplit(folder, "val")


def test_a_field_that_was_not_made_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, [(photos_of(2), ImageArrays(grid=arrays_of(2).grid))], options=OPTIONS)
    with pytest.raises(DataError, match="holds no 'region' arrays, only grid"):
        ShardedSplit(tmp_path, "train").read([0], fields=["region"])


def _sum_of(split: ShardedSplit) -> float:
    grid = split.read([3, 7]).grid
    assert grid is not None
    return float(grid.astype(np.float64).sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_crosses_to_other_processes(folder: Path, method: str) -> None:
    split = ShardedSplit(folder, "train")
    here = _sum_of(split)  # opens the files in this process first
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(_sum_of, (split,)) == here
    assert _sum_of(pickle.loads(pickle.dumps(split))) == here


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write(tmp_path / "a.h5", photos_of(3), arrays_of(3)).read_bytes()
    time.sleep(1.1)  # HDF5's times have a resolution of a second
    assert write(tmp_path / "b.h5", photos_of(3), arrays_of(3)).read_bytes() == first


def test_a_shard_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.h5"

    def interrupted() -> None:
        with ShardWriter(path, grid_size=(2, 3)) as writer:
            writer.append(photos_of(2), arrays_of(2), [(1, 1)] * 2)
            assert not path.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regions": [np.zeros((0, 6), np.float16)] * 2}, "'id0': 0 regions; an image needs 1 to 36"),
        ({"regions": [np.zeros((37, 6), np.float16)] * 2}, "37 regions"),
        ({"regions": [np.full((2, 6), np.inf, np.float16)] * 2}, "not finite"),
        ({"boxes": [np.array([[0, 0, 2, 1]] * 2, np.float32)] * 2}, r"in \[0, 1\]"),
        ({"scores": None}, "come together"),
        ({"labels": [np.zeros(9, np.int16)] * 2}, r"labels of shape \(9,\), int16; expected \(2,\)"),
        ({"seg_map": None}, "come together"),
        ({"seg_map": np.full((2, 64, 64), CLASSES, np.uint8)}, "seg/map has class 5; there are 0 to 4, and 255"),
        ({"grid": np.zeros((2, 5, 8), np.float16)}, r"features of shape \(5, 8\), float16; expected \(6, 8\)"),
        ({"grid": np.zeros((3, 6, 8), np.float16)}, "3 entries for 2 images"),
        ({"grid": np.zeros((2, 6, 8), np.int32)}, "int32"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    arrays = arrays_of(2, lengths=[2, 2])._replace(**change)
    with pytest.raises(DataError, match=message):
        write(tmp_path / "train-00000.h5", photos_of(2), arrays)
    assert list(tmp_path.iterdir()) == []


def test_void_is_allowed_in_the_map(tmp_path: Path) -> None:
    arrays = arrays_of(2)._replace(seg_map=np.full((2, 64, 64), 255, np.uint8))
    assert write(tmp_path / "train-00000.h5", photos_of(2), arrays).is_file()


def test_all_faults_of_a_folder_are_said_at_once(folder: Path) -> None:
    (folder / "train-00000.h5").unlink()
    (folder / "train-00001.h5").write_bytes(b"torn")
    write(folder / "train-00002.h5", photos_of(3), arrays_of(3))
    with pytest.raises(DataError) as caught:
        ShardedSplit(folder, "train")
    message = str(caught.value)
    assert "train-00000.h5: missing" in message
    assert "train-00001.h5: cannot be read" in message
    assert "train-00002.h5: image/id, image/file" in message
    assert "3 rows; expected 4, as the manifest says" in message
    assert "make data" in message


def test_a_torn_or_edited_manifest_is_refused(folder: Path) -> None:
    text = (folder / "manifest.json").read_text(encoding="utf-8")
    for wrong in (text[:100], text.replace("class 1", "class one"), text.replace('"format": 1', '"format": 7')):
        (folder / "manifest.json").write_text(wrong, encoding="utf-8")
        with pytest.raises(DataError, match=r"manifest.json: not a manifest of format 1"):
            Manifest.load(folder)


def test_the_manifest_comes_back(folder: Path) -> None:
    manifest = Manifest.load(folder)
    manifest.save(folder)
    assert Manifest.load(folder) == manifest
    layout = manifest.layout
    assert (layout.region_width, layout.grid_width, layout.classes) == (6, 8, CLASSES)
    assert manifest.fields == ("region", "grid", "seg")
    tables = {class_table_hash(names, 2) for names in (("cat", "dog"), ("dog", "cat"), ())}
    assert (len(tables), class_table_hash((), None)) == (3, None)


def test_shards_are_found_where_they_may_lie(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="make data DATA=toy"):
        open_shards(tmp_path / "nowhere", "toy")
    (tmp_path / "toy").mkdir()
    make_folder(tmp_path / "toy")
    assert open_shards(tmp_path / "toy", "toy") == tmp_path / "toy"
    assert open_shards(tmp_path, "toy") == tmp_path / "toy"
    assert open_shards(tmp_path) == tmp_path / "toy"
    with pytest.raises(DataError, match=r"No shards of coco: .*there are: .*toy .*make data DATA=coco"):
        open_shards(tmp_path, "coco")  # never another data set's unasked
    (tmp_path / "other").mkdir()
    make_folder(tmp_path / "other")
    with pytest.raises(DataError, match="there are: "):
        open_shards(tmp_path)


def test_synthetic_shards_stand_in_for_any_data_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "synthetic").mkdir()
    make_folder(tmp_path / "synthetic", name="synthetic")
    assert open_shards(tmp_path, "coco") == tmp_path / "synthetic"
    assert "no shards of coco" in caplog.text


words = st.text(min_size=1, max_size=20).filter(lambda text: text.strip() and "\0" not in text)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 36), min_size=1, max_size=8),
    captions=st.lists(words | st.sampled_from(["😀 👩‍👩‍👧", "שלום עולם", "مرحبا", "a\nb"]), min_size=1, max_size=8),
    batch=st.integers(1, 3),
)
def test_round_trip(tmp_path: Path, lengths: list[int], captions: list[str], batch: int) -> None:
    count = len(lengths)
    arrays = arrays_of(count, lengths=lengths)
    photos = [Photo(str(number), Path(f"{number}.jpg"), "train", tuple(captions)) for number in range(count)]
    with ShardWriter(tmp_path / "train-00000.h5", grid_size=(2, 3)) as writer:
        for start in range(0, count, batch):
            end = min(start + batch, count)
            writer.append(photos[start:end], part_of(arrays, start, end), [(0, 0)] * (end - start))
    entry = SplitEntry(count, count * len(captions), (ShardEntry("train-00000.h5", count, writer.captions, ""),))
    assert writer.layout is not None
    Manifest("toy", writer.layout, {"train": entry}).save(tmp_path)
    split = ShardedSplit(tmp_path, "train")
    assert split.caption_texts == captions * count
    assert split.caption_tags == [""] * split.captions
    assert_equal(split.read(range(count)), arrays, list(range(count)))  # pyright: ignore
