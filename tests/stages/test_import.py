"""Published arrays of a split: counts and ids that must go together, sources joined."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from threeshnet.features.published.ids import matched_ids
from threeshnet.features.published.npy import NpyRows
from threeshnet.records import VOID
from threeshnet.shards.manifest import Manifest
from threeshnet.shards.reader import ShardedSplit
from threeshnet.shards.verify import verify

IDS = ["17", "5", "391895", "8"]


def arrays_of(images: int, *, width: int = 6) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    return {
        "ims": random.random((images, 4, width), np.float32),
        "segmentations": random.random((images, 3, 7, 7), np.float32),
        "seg_maps": random.integers(0, 3, (images, 64, 64)).astype(np.float32),
        "cat_onehots": random.integers(0, 2, (images, 3)).astype(np.float32),
    }


def write_split(
    folder: Path,
    split: str,
    *,
    ids: list[str] | None = None,
    captions: int = 2,
    without: tuple[str, ...] = (),
    **arrays: np.ndarray,
) -> dict[str, np.ndarray]:
    """A split's files; ids once a caption, as most people's are."""
    folder.mkdir(exist_ok=True, parents=True)
    ids = IDS if ids is None else ids
    made = {k: v for k, v in (arrays_of(len(ids)) | arrays).items() if k not in without}
    for ending, values in made.items():
        np.save(folder / f"{split}_{ending}.npy", values)
    lines = [f"image {name} caption {number} ." for name in ids for number in range(captions)]
    if "caps" not in without:
        (folder / f"{split}_caps.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if "ids" not in without:
        (folder / f"{split}_ids.txt").write_text("".join(f"{name}\n" * captions for name in ids), encoding="utf-8")
    return made


def test_a_split_becomes_a_shard_in_its_order(imported, raw: Path) -> None:
    made = write_split(raw, "train")
    made["seg_maps"][1, 0, :2] = (3, 255)  # void as C and as 255
    np.save(raw / "train_seg_maps.npy", made["seg_maps"])
    _, folder = imported()
    split = ShardedSplit(folder, "train")
    assert split.image_ids == IDS
    assert split.caption_texts[2:4] == ["image 5 caption 0 .", "image 5 caption 1 ."]
    arrays = split.read([2, 1])
    np.testing.assert_array_equal(np.stack(arrays.regions), made["ims"][[2, 1]])
    np.testing.assert_array_equal(arrays.seg_semantic, made["segmentations"][[2, 1]])
    np.testing.assert_array_equal(arrays.seg_categories, made["cat_onehots"][[2, 1]])
    assert arrays.seg_map[1, 0, :2].tolist() == [VOID, VOID]
    np.testing.assert_array_equal(arrays.seg_map[0], made["seg_maps"][2])
    assert verify(folder).splits["train"].captions == 8


@pytest.mark.parametrize("ids_once", [False, True])
def test_rows_once_a_caption_are_collapsed_when_they_are_equal(imported, ids_once: bool, raw: Path) -> None:
    made = write_split(raw, "train")
    np.save(raw / "train_ims.npy", made["ims"].repeat(2, axis=0))
    if ids_once:
        (raw / "train_ids.txt").write_text("\n".join(IDS))
    _, folder = imported(says=["train_ims.npy: 8 rows of 4 images"])
    split = ShardedSplit(folder, "train")
    assert len(split.image_ids) == 4
    np.testing.assert_array_equal(np.stack(split.read(range(4)).regions), made["ims"])


def test_rows_of_one_image_that_differ_leave_it_out_by_name(imported, raw: Path) -> None:
    made = write_split(raw, "train")
    rows = made["ims"].repeat(2, axis=0)
    rows[5, 0, 0] += 1
    np.save(raw / "train_ims.npy", rows)
    _, folder = imported()
    assert ShardedSplit(folder, "train").image_ids == ["17", "5", "8"]
    assert "train_ims.npy rows 4 and 5 are of one image and differ" in Manifest.load(folder).left_out[0]


def test_images_with_unequal_numbers_of_captions_follow_their_ids(imported, raw: Path) -> None:
    write_split(raw, "train")
    (raw / "train_ids.txt").write_text("17\n5\n5\n391895\n8\n8\n8\n8")
    _, folder = imported()
    assert np.bincount(ShardedSplit(folder, "train").owners).tolist() == [1, 2, 1, 4]


def test_without_ids_images_are_numbered_and_it_is_said(imported, raw: Path) -> None:
    made = write_split(raw, "train", without=("ids",))
    for ending in made:
        np.save(raw / f"train_{ending}.npy", made[ending].repeat(2, axis=0))
    _, folder = imported(says=["no train_ids.txt"])
    assert ShardedSplit(folder, "train").image_ids[:2] == ["train-000000", "train-000001"]
    assert len(ShardedSplit(folder, "train").image_ids) == 4


def test_everything_that_does_not_fit_is_said_at_once(imported, raw: Path) -> None:
    write_split(raw, "train", ims=np.zeros((4, 4, 6), object), without=("seg_maps",))
    np.save(raw / "train_segmentations.npy", np.asfortranarray(arrays_of(4)["segmentations"]))
    write_split(raw, "dev", **arrays_of(4, width=5))
    (raw / "dev_caps.txt").write_text("a\nb\nc\n")
    whole = (raw / "dev_seg_maps.npy").read_bytes()
    (raw / "dev_seg_maps.npy").write_bytes(whole[:-100])
    write_split(raw, "test", ims=arrays_of(3)["ims"], cat_onehots=np.zeros((4, 5)))
    (raw / "testall_ims.npy").write_bytes(b"not an array")
    said, folder = imported(code=1)
    for part in (
        "train_ims.npy: an array of Python objects (a pickle)",
        "train_segmentations.npy: in column order (Fortran)",
        "train_seg_maps.npy",
        "dev_caps.txt: 3 captions are not a multiple of 4 images",
        f"dev_seg_maps.npy: truncated: {len(whole) - 100} of {len(whole)} bytes",
        "test_ims.npy: 3 rows do not fit 4 images (8 ids), 8 captions",
        "testall_ims.npy: not a .npy file",
        "width Dr differs: dev_ims.npy 5, test_ims.npy 6",
        "number of classes C differs",
        "nothing was written",
    ):
        assert part in said
    assert not folder.exists()


def test_numbers_that_are_not_finite_name_file_and_row(imported, raw: Path) -> None:
    made = write_split(raw, "dev")
    made["ims"][1, 2, 3] = np.nan
    made["segmentations"][3, 0, 1, 1] = np.inf
    for ending in ("ims", "segmentations"):
        np.save(raw / f"dev_{ending}.npy", made[ending])
    _, folder = imported()
    first, second = Manifest.load(folder).left_out
    assert "dev_ims.npy row 1" in first
    assert "regions at (2, 3) is nan" in first
    assert "row 3" in second
    assert "seg_semantic at (0, 1, 1) is inf" in second
    made["ims"][:] = 7e4
    np.save(raw / "dev_ims.npy", made["ims"])
    imported(code=1, dtype="float16", overwrite="true", says=["float16 ends at 65504"])


def test_double_precision_becomes_single_and_types_do_not_mix(imported, raw: Path) -> None:
    made = write_split(raw, "train", ims=arrays_of(4)["ims"].astype(np.float64))
    _, folder = imported(fields="[region]", says=["float64 becomes float32"])
    arrays = ShardedSplit(folder, "train").read([0])
    np.testing.assert_array_equal(arrays.regions[0], made["ims"][0].astype(np.float32))
    write_split(raw, "dev", ids=["901"], ims=np.ones((1, 4, 6), np.float16))
    imported(code=1, fields="[region]", says=["region of types float16, float32", "dtype=float32"])


def test_padding_at_the_end_is_left_out_unless_it_is_kept(imported, raw: Path) -> None:
    ims = arrays_of(4)["ims"]
    ims[1, 2:] = 0
    ims[2, 1] = 0  # between real ones: a region
    write_split(raw, "dev", ims=ims)
    _, folder = imported()
    assert [len(regions) for regions in ShardedSplit(folder, "dev").read(range(4)).regions] == [4, 2, 4, 4]
    _, folder = imported(padding="keep", overwrite="true")
    assert [len(regions) for regions in ShardedSplit(folder, "dev").read(range(4)).regions] == [4, 4, 4, 4]
    imported(code=1, padding="kep", says=["padding='kep' does not exist; there are: drop, keep"])


def test_more_regions_than_a_shard_takes(imported, raw: Path) -> None:
    many = np.random.default_rng(0).random((4, 40, 6), np.float32)
    write_split(raw, "dev", ims=many)
    imported(code=1, says=["40 regions without scores", "most_regions=first"])
    _, folder = imported(most_regions="first")
    regions = ShardedSplit(folder, "dev").read([3]).regions or []
    np.testing.assert_array_equal(regions[0], many[3, :36])


# ---- splits


def test_test_is_left_out_where_testall_holds_it(imported, raw: Path) -> None:
    write_split(raw, "testall")
    write_split(raw, "test", ids=IDS[:2])
    _, folder = imported(says=["split test: 2 of its 2 images are in testall too"])
    assert list(Manifest.load(folder).splits) == ["testall"]
    _, folder = imported(splits="[test]", overwrite="true")
    assert {name: split.images for name, split in Manifest.load(folder).splits.items()} == {"test": 2}
    imported(splits="[dev]", code=1, says=["splits='dev' does not exist; there are: test, testall"])
    imported(splits="[val]", code=1, says=["splits='val' does not exist; there are: train, dev, test, testall"])


def test_a_split_without_captions_beside_one_with_them(imported, raw: Path) -> None:
    write_split(raw, "train", without=("caps",))
    write_split(raw, "dev", ids=["1", "", "3"])
    imported(code=1, says=["no train_caps.txt, and dev has its own", "dev_ids.txt: an empty line"])


def test_an_image_in_two_splits_is_refused(imported, raw: Path) -> None:
    write_split(raw, "train")
    write_split(raw, "val", ids=["8", "999"])
    imported(code=1, says=["1 images are in train and in dev: 8"])


# ---- several sources


def test_regions_from_here_and_segmentation_from_there(imported, tmp_path: Path) -> None:
    theirs = ["COCO_val2014_000000391895.jpg", "000017", "000008", "000123"]
    regions = write_split(tmp_path / "a", "test", without=("segmentations", "seg_maps", "cat_onehots"))
    other = write_split(tmp_path / "b", "test", ids=theirs, without=("ims", "caps"))
    said, folder = imported(tmp_path / "a", tmp_path / "b")
    assert "joined by ids without folders, endings and leading zeros: 000017 is 17" in said
    left_out = "\n".join(Manifest.load(folder).left_out)
    assert f"1 of 4 images have no arrays in {tmp_path / 'b'}: 5" in left_out
    assert f"1 of 4 images of {tmp_path / 'b'} have no caption: 000123" in left_out
    split = ShardedSplit(folder, "test")
    assert split.image_ids == ["17", "391895", "8"]
    arrays = split.read(range(3))
    np.testing.assert_array_equal(np.stack(arrays.regions), regions["ims"][[0, 2, 3]])
    np.testing.assert_array_equal(arrays.seg_semantic, other["segmentations"][[1, 0, 2]])
    makers = Manifest.load(folder).extractors
    assert makers["region"]["weights"] != makers["seg"]["weights"]


def test_one_npy_an_image_beside_the_captions(imported, raw: Path) -> None:
    write_split(raw, "train", without=("ims",))
    random = np.random.default_rng(1)
    (raw / "regions").mkdir()
    own = {name: random.random((number + 1, 6), np.float32) for number, name in enumerate(IDS)}
    for name, regions in own.items():
        np.save(raw / "regions" / f"{name}.npy", regions)
    _, folder = imported()
    assert Manifest.load(folder).fields == ("region", "seg")
    for found, name in zip(ShardedSplit(folder, "train").read(range(4)).regions, IDS, strict=True):
        np.testing.assert_array_equal(found, own[name])


def test_ids_are_normalised_only_where_that_is_safe() -> None:
    assert matched_ids(["1", "2"], ["2", "1", "3"]) == ({"1": "1", "2": "2"}, False)
    assert matched_ids(["1", "2"], ["0001.jpg", "0002.jpg"]) == ({"1": "0001.jpg", "2": "0002.jpg"}, True)
    # Two of theirs would become one.
    assert matched_ids(["1", "2"], ["01", "001", "2"]) == ({"2": "2"}, False)


# ---- again, elsewhere, nothing


def test_the_same_import_again_does_nothing_and_another_is_refused(imported, raw: Path) -> None:
    made = write_split(raw, "dev")
    _, folder = imported()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    imported(says=["1 were there already"])
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    np.save(raw / "dev_ims.npy", made["ims"] + 1)
    imported(code=1, says=["overwrite=true"])


def test_a_folder_of_no_layout_says_what_each_missed(imported, tmp_path: Path) -> None:
    said, _ = imported(code=1, says=["is of no layout that can be imported: 6 problems"])
    for layout in ("precomputed", "tsv", "npz_files", "grid_files", "region_files", "hdf5"):
        assert f"- {layout} (" in said
    imported(tmp_path / "nowhere", code=1, says=[f"{tmp_path / 'nowhere'} does not exist"])
    imported(code=1, layout="tsv", says=["layout=tsv needs *.tsv"])


def test_rows_are_read_without_the_rest_of_the_file(tmp_path: Path) -> None:
    big = np.arange(60, dtype=">f4").reshape(5, 3, 4)  # the other byte order
    np.save(tmp_path / "a.npy", big)
    rows = NpyRows(tmp_path / "a.npy")
    assert len(rows) == 5
    assert rows.row(3).dtype == np.float32
    np.testing.assert_array_equal(rows.row(3), big[3])
    np.testing.assert_array_equal(rows.row(0), big[0])


def test_shards_say_where_their_arrays_came_from(imported, raw: Path) -> None:
    write_split(raw, "dev")
    _, folder = imported()
    with h5py.File(folder / "dev-00000.h5") as file:
        assert file["image/file"].asstr()[0] == "dev_ims.npy"
    maker = Manifest.load(folder).extractors["region"]
    assert maker["name"] == "published precomputed"
    assert "dtype=source" in maker["options"]
