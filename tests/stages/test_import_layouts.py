"""Each published layout but the precomputed arrays: written here as its publishers write it, imported, compared."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from threeshnet.shards.manifest import Manifest
from threeshnet.shards.reader import ShardedSplit
from threeshnet.shards.verify import verify

SIZES = {"391895": (640, 480), "22": (200, 100), "7": (50, 80)}
COUNTS = {"391895": 5, "22": 2, "7": 3}
WIDTH = 6


def regions_of(name: str) -> np.ndarray:
    return np.random.default_rng(int(name)).random((COUNTS[name], WIDTH), np.float32)


def shares_of(name: str) -> np.ndarray:
    return np.sort(np.random.default_rng(int(name)).random((COUNTS[name], 2, 2), np.float32), axis=1).reshape(-1, 4)


def pixels_of(name: str) -> np.ndarray:
    return shares_of(name) * np.array(SIZES[name] * 2, np.float32)


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """COCO's split in the common JSON: one photo in restval, one in val, one in test."""
    file = tmp_path / "dataset_coco.json"
    entries = [
        {
            "cocoid": int(name),
            "filepath": "val2014",
            "filename": f"COCO_val2014_{int(name):012d}.jpg",
            "split": split,
            "sentences": [{"raw": f"photo {name} sentence {number}"} for number in range(2)],
        }
        for name, split in zip(SIZES, ("restval", "val", "test"), strict=True)
    ]
    file.write_text(json.dumps({"images": entries, "dataset": "coco"}))
    return file


@pytest.fixture
def imported(imported, captions: Path):
    """As everywhere, with these captions."""
    return lambda *raws, **settings: imported(*raws, **{"captions": captions} | settings)


def check_regions(folder: Path, *, boxes: bool, scores: Mapping[str, np.ndarray] | None = None) -> None:
    """Every image is in its split with its own regions and boxes."""
    verify(folder)
    for name, split in zip(SIZES, ("train", "dev", "testall"), strict=True):
        rows = ShardedSplit(folder, split)
        assert rows.image_ids == [name]
        assert rows.caption_texts == [f"photo {name} sentence {number}" for number in range(2)]
        arrays = rows.read([0])
        np.testing.assert_array_equal(arrays.regions[0], regions_of(name))
        assert (arrays.boxes is not None) == boxes
        if arrays.boxes is not None and arrays.scores is not None:
            np.testing.assert_allclose(arrays.boxes[0], shares_of(name), atol=1e-6)
            expected = np.ones(COUNTS[name]) if scores is None else scores[name]
            np.testing.assert_array_equal(arrays.scores[0], expected)


# ---- tab-separated lines


def encoded(values: np.ndarray) -> str:
    return base64.b64encode(values.astype(np.float32).tobytes()).decode()


def bottom_up_line(name: str) -> str:
    width, height = SIZES[name]
    cells = (name, width, height, COUNTS[name], encoded(pixels_of(name)), encoded(regions_of(name)))
    return "\t".join(map(str, cells)) + "\n"


def test_bottom_up_lines_in_several_parts(imported, raw: Path) -> None:
    (raw / "part.tsv.0.tsv").write_text(bottom_up_line("391895") + bottom_up_line("22"))
    (raw / "part.tsv.1.tsv").write_text(bottom_up_line("22") + bottom_up_line("7"))
    _, folder = imported(says=["1 image ids occur again", "every region's score is written as 1"])
    check_regions(folder, boxes=True)
    assert ShardedSplit(folder, "dev").sizes().tolist() == [list(SIZES["22"])]


def test_lxmert_lines_have_scores_and_the_height_first(imported, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    scores = {name: random.random(count).astype(np.float32) for name, count in COUNTS.items()}
    lines = []
    for name, (width, height) in SIZES.items():
        number = encoded(np.zeros(COUNTS[name]))
        cells = (f"COCO_val2014_{int(name):012d}", height, width, number, encoded(scores[name]), number, number)
        lines.append("\t".join(map(str, (*cells, COUNTS[name], encoded(pixels_of(name)), encoded(regions_of(name))))))
    file = tmp_path / "val.tsv"
    file.write_text("\n".join(lines) + "\n")
    _, folder = imported(file, says=["000000391895 is 391895"])
    check_regions(folder, boxes=True, scores=scores)


def test_of_many_regions_the_best_are_kept(imported, tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    values, scores = random.random((50, WIDTH), np.float32), random.random(50).astype(np.float32)
    boxes = np.tile(np.array([0, 0, 10, 10], np.float32), (50, 1))
    nothing = encoded(np.zeros(50))
    cells = ("22", 100, 200, nothing, encoded(scores), nothing, nothing, 50, encoded(boxes), encoded(values))
    (tmp_path / "a.tsv").write_text("\t".join(map(str, cells)))
    _, folder = imported(tmp_path / "a.tsv")
    arrays = ShardedSplit(folder, "dev").read([0])
    best = sorted(range(50), key=lambda number: -scores[number])[:36]
    np.testing.assert_array_equal(arrays.regions[0], values[best])
    np.testing.assert_array_equal(arrays.scores[0], scores[best])


def test_torn_lines_name_file_and_line(imported, raw: Path) -> None:
    torn = bottom_up_line("22").rstrip("\n")[:-40]
    (raw / "a.tsv").write_text(bottom_up_line("391895") + "7\t1\t2\n" + bottom_up_line("7").replace("\t50\t", "\tx\t"))
    (raw / "b.tsv").write_text(bottom_up_line("7") + torn)
    faults = (
        f"{raw / 'a.tsv'} line 2: 3 columns",
        f"{raw / 'a.tsv'} line 3: no number in image_w",
        f"{raw / 'b.tsv'} line 2: features of",
    )
    said, folder = imported(on_error="stop", code=1)
    assert all(fault in said for fault in faults), said
    assert not folder.exists()
    imported()  # on_error=skip: the whole lines are taken, the others listed
    left_out = (folder / "left_out.txt").read_text()
    assert all(fault in left_out for fault in faults)


def test_boxes_of_another_size_leave_the_image_out(imported, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("".join(bottom_up_line(name) for name in SIZES).replace("22\t200\t", "22\t20\t"))
    imported(tmp_path / "a.tsv", on_error="stop", code=1, says=["a.tsv line 2: a box that ends at"])


# ---- a file an image


@pytest.mark.parametrize("turned", [False, True])
def test_npz_files_with_boxes(imported, turned: bool, raw: Path) -> None:
    raw = raw / "val2014"
    raw.mkdir(parents=True)
    for name, (width, height) in SIZES.items():
        own = regions_of(name).T if turned else regions_of(name)
        sizes = {"image_w": width, "image_h": height, "num_bbox": COUNTS[name]}
        info = {"info": np.array({"objects_id": [1]}, object)} if name == "22" else {"info": np.zeros(1)}
        np.savez_compressed(
            raw / f"COCO_val2014_{int(name):012d}.jpg.npz", x=own, bbox=pixels_of(name), **sizes, **info
        )
    said, folder = imported()
    check_regions(folder, boxes=True)
    assert "read from each .npz: x, bbox, num_bbox; not read: info" in said
    assert ("it was turned" in said) == turned


def test_npz_files_without_sizes_lose_boxes_in_pixels(imported, raw: Path) -> None:
    for name in SIZES:
        np.savez(raw / f"{name}.npz", features=regions_of(name), boxes=pixels_of(name))
    _, folder = imported(says=["boxes in pixels left out, 3 photos have no size"])
    check_regions(folder, boxes=False)


def test_a_damaged_npz_is_listed(imported, raw: Path) -> None:
    for name in SIZES:
        np.savez(raw / f"{name}.npz", features=regions_of(name))
    for split in ("7", "22"):
        file = raw / f"{split}.npz"
        np.savez(file, features=np.array([{"a": 1}], object) if split == "7" else regions_of("22")[:, :5])
    imported(on_error="stop", code=1, says=["22.npz", "regions of width 5; the others have 6"])


@pytest.mark.parametrize("suffix", [".npy", ".pth"])
def test_grids_become_cells_row_by_row(imported, suffix: str, raw: Path) -> None:
    grids = {name: np.random.default_rng(int(name)).random((1, 9, 2, 3), np.float32) for name in SIZES}
    for name, grid in grids.items():
        if suffix == ".npy":
            np.save(raw / f"{name}.npy", grid if name != "22" else grid[0])
        else:
            torch.save(torch.from_numpy(grid), raw / f"{name}.pth")
    _, folder = imported()
    assert Manifest.load(folder).grid_size == (2, 3)
    cells = ShardedSplit(folder, "dev").read([0]).grid
    for row, column in np.ndindex(2, 3):
        np.testing.assert_array_equal(cells[0, row * 3 + column], grids["22"][0, :, row, column])


def test_grids_of_several_sizes_need_a_size(imported, raw: Path) -> None:
    grids = {"391895": np.ones((9, 4, 6)), "22": np.arange(36.0).reshape(1, 4, 9).repeat(9, 0), "7": np.ones((9, 2, 2))}
    for name, grid in grids.items():
        np.save(raw / f"{name}.npy", grid.astype(np.float32))
    imported(code=1, says=["cells=7"])
    _, folder = imported(cells=2)
    cells = ShardedSplit(folder, "dev").read([0]).grid
    pooled = [
        grids["22"][:, rows, columns].mean() for rows in (slice(2), slice(2, 4)) for columns in (slice(5), slice(4, 9))
    ]
    np.testing.assert_allclose(cells[0, :, 0], pooled, rtol=1e-6)


def test_a_grid_with_its_channels_last_is_noticed(imported, raw: Path) -> None:
    for name in SIZES:
        np.save(raw / f"{name}.npy", np.ones((2, 2, 32), np.float32))
    imported(code=1, says=["say channels=last"])
    _, folder = imported(channels="last")
    assert Manifest.load(folder).layout.grid_width == 32


def test_a_pickle_in_a_pth_is_refused(imported, raw: Path) -> None:
    for name in SIZES:
        torch.save(Path("anything"), raw / f"{name}.pth")
    imported(code=1, says=["cannot be opened for weights alone"])


# ---- HDF5


def stacked(values: Sequence[np.ndarray]) -> np.ndarray:
    padded = np.zeros((len(values), max(map(len, values)), *values[0].shape[1:]), np.float32)
    for row, own in enumerate(values):
        padded[row, : len(own)] = own
    return padded


def write_hdf5(file: Path, form: str) -> None:
    regions, shares = ([of(name) for name in SIZES] for of in (regions_of, shares_of))
    ends = np.cumsum(list(COUNTS.values()))
    with h5py.File(file, "w") as out:
        if between := {"a prefix an image": "_", "a group an image": "/"}.get(form):
            for name in SIZES:
                out[f"{name}{between}features"], out[f"{name}{between}boxes"] = regions_of(name), shares_of(name)
            return
        out["image_ids"] = [f"{int(name):012d}" for name in SIZES] if form == "padded" else np.array([391895, 22, 7])
        if form == "padded":
            out["features"], out["boxes"] = stacked(regions), stacked(shares)
            out["num_boxes"] = list(COUNTS.values())
        elif form == "back to back":
            out["image_features"] = np.concatenate(regions)
            out["image_bb"] = np.concatenate([pixels_of(name) for name in SIZES])
            out["spatial_features"] = np.concatenate([np.pad(own, ((0, 0), (0, 2))) for own in shares])
            out["pos_boxes"] = np.stack([ends - list(COUNTS.values()), ends], axis=1)
        else:
            out["features"], out["num_boxes"] = np.concatenate(regions), list(COUNTS.values())
            out["boxes"] = np.concatenate([pixels_of(name) for name in SIZES])
            out["image_w"], out["image_h"] = np.array(list(SIZES.values())).T


@pytest.mark.parametrize("form", ["a prefix an image", "a group an image", "padded", "back to back", "counted"])
def test_hdf5_forms(imported, tmp_path: Path, form: str) -> None:
    write_hdf5(tmp_path / "features.hdf5", form)
    _, folder = imported(tmp_path / "features.hdf5")
    check_regions(folder, boxes=True)


def test_an_hdf5_grid(imported, tmp_path: Path) -> None:
    grids = np.random.default_rng(0).random((3, 9, 2, 3), np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as out:
        out["features"], out["ids"] = grids, list(SIZES)
    _, folder = imported(tmp_path / "a.h5")
    cells = ShardedSplit(folder, "testall").read([0]).grid
    np.testing.assert_array_equal(cells[0], grids[2].reshape(9, 6).T)


def test_an_hdf5_without_ids_says_how_to_add_them(imported, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as out:
        out["features"] = np.ones((3, 2, WIDTH), np.float32)
    imported(tmp_path / "a.h5", code=1, says=["add the image ids in the order of its rows as image_ids or ids"])
    with h5py.File(tmp_path / "a.h5", "a") as out:
        out["ids"] = ["1", "2"]
    imported(tmp_path / "a.h5", code=1, says=["3 rows of features and 2 ids"])


# ---- captions without photos


def test_captions_are_asked_for(imported, tmp_path: Path) -> None:
    write_hdf5(tmp_path / "a.h5", "padded")
    imported(tmp_path / "a.h5", code=1, captions="null", says=["captions=<dataset_*.json"])
    imported(tmp_path / "a.h5", code=1, captions=tmp_path / "nowhere.json", says=["there is no such file"])


def test_captions_beside_the_arrays_are_found(imported, captions: Path, raw: Path) -> None:
    write_hdf5(raw / "a.h5", "padded")
    captions.rename(raw / captions.name)
    (raw / "captions.txt").write_text("not\tlooked at\n")
    _, folder = imported(captions="null", says=[f"captions: {raw / captions.name}"])
    check_regions(folder, boxes=True)
    (raw / "dataset_flickr30k.json").write_text("{}")
    imported(captions="null", code=1, says=["Name it with captions=<file>"])
