"""Photos of one split that are in another too: found, counted once each, in bounded memory."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from threeshnet.cli.data import show_leakage
from threeshnet.records import AnnotatedSet, Photo
from threeshnet.shards import leakage
from threeshnet.shards.leakage import Leak, coverage, crossing, leaks, nearest_within
from threeshnet.shards.verify import verify

from .pictures import quiet_shards


def noise(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(values).resize((80, 60), Image.Resampling.BICUBIC)


def recompressed(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.resize((60, 45)).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train holds t1 twice, dev copies of t0 and (in other bytes) of t1, test one of t0; each has a plain photo."""
    raw = tmp_path_factory.mktemp("raw")
    files = {f"t{seed}.png": noise(seed) for seed in range(5)} | {"d0.png": noise(10), "e0.png": noise(11)}
    files |= {f"plain-{name}.png": Image.new("RGB", (9, 9), name) for name in ("white", "black", "gray")}
    for name, image in files.items():
        image.save(raw / name)
    (raw / "t1-again.png").write_bytes((raw / "t1.png").read_bytes())
    (raw / "d-t0.png").write_bytes((raw / "t0.png").read_bytes())
    (raw / "d-t1.jpg").write_bytes(recompressed(noise(1)))
    (raw / "e-t0.png").write_bytes((raw / "t0.png").read_bytes())
    splits = {
        "train": ["t0.png", "t1.png", "t1-again.png", "t2.png", "t3.png", "t4.png", "plain-white.png"],
        "dev": ["d0.png", "d-t0.png", "d-t1.jpg", "plain-gray.png"],
        "test": ["e0.png", "e-t0.png", "plain-black.png"],
    }
    photos = [
        Photo(Path(name).stem, raw / name, split, ("a caption",)) for split, names in splits.items() for name in names
    ]
    shards = tmp_path_factory.mktemp("shards")
    return quiet_shards(AnnotatedSet("toy", tuple(photos)), raw, shards, images_per_shard=4).folder


def test_what_is_in_two_splits_is_found(folder: Path) -> None:
    found = leaks(folder)
    assert [leak._replace(distance=0) for leak in crossing(found)] == [
        Leak("identical", ("train", "dev"), ("t0", "d-t0"), ("t0.png", "d-t0.png"), 0),
        Leak("near", ("train", "dev"), ("t1", "d-t1"), ("t1.png", "d-t1.jpg"), 0),
        Leak("identical", ("train", "test"), ("t0", "e-t0"), ("t0.png", "e-t0.png"), 0),
        Leak("identical", ("dev", "test"), ("d-t0", "e-t0"), ("d-t0.png", "e-t0.png"), 0),
    ]
    inside = [leak for leak in found if leak.splits == ("train", "train")]
    assert inside == [Leak("identical", ("train", "train"), ("t1", "t1-again"), ("t1.png", "t1-again.png"), 0)]
    assert len(found) == 5


def test_the_distance_decides_what_is_near(folder: Path) -> None:
    distance = next(leak.distance for leak in leaks(folder) if leak.kind == "near")
    assert 0 < distance <= 4  # a smaller copy in other bytes, and the noise of a seed that shows a difference
    assert not [leak for leak in leaks(folder, distance - 1) if leak.kind == "near"]
    assert len([leak for leak in leaks(folder, 64) if leak.kind == "near"]) > 1


def test_the_fields_are_of_the_files_and_whole(folder: Path) -> None:
    assert verify(folder)
    with h5py.File(folder / "dev-00000.h5") as shard:
        digests, hashes = shard["image/sha256"], shard["image/perceptual_hash"]
        assert (digests.shape, digests.dtype) == ((4, 32), np.uint8)  # pyright: ignore
        assert (hashes.shape, hashes.dtype) == ((4,), np.uint64)  # pyright: ignore
    assert coverage(folder) == (14, 14)


def test_shards_without_the_fields_stay_valid_and_have_no_leaks(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with h5py.File(tmp_path / "dev-00000.h5", "r+") as shard:
        del shard["image/sha256"], shard["image/perceptual_hash"]
    assert coverage(tmp_path) == (10, 14)
    assert [leak.splits for leak in leaks(tmp_path)] == [("train", "test"), ("train", "train")]
    for name in ("train-00000", "train-00001", "test-00000"):
        with h5py.File(tmp_path / f"{name}.h5", "r+") as shard:
            del shard["image/sha256"]
    assert (coverage(tmp_path), leaks(tmp_path)) == ((0, 14), [])


def test_what_leaked_is_said(folder: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    show_leakage(folder, console, 4, shown=2)
    said = console.file.getvalue()  # pyright: ignore
    assert "leakage: 4 photos are in another split too, 1 of them nearly identical" in said
    assert "dev: d-t0 is identical to t0 of train" in said
    assert "and 2 more" in said
    assert "duplicates: 1 within a split" in said


# --- the search


def slow_nearest(queries: np.ndarray, gallery: np.ndarray, distance: int) -> tuple[list[int], list[int]]:
    nearest, bits = [], []
    for query in queries.tolist():
        differing = [(query ^ other).bit_count() for other in gallery.tolist()]
        least = min(differing, default=distance + 1)
        nearest.append(differing.index(least) if least <= distance else -1)
        bits.append(least if least <= distance else distance + 1)
    return nearest, bits


@pytest.mark.parametrize(("queries", "gallery"), [(23, 41), (1, 100), (8, 16), (0, 5), (5, 0)])
def test_blocks_find_what_one_by_one_finds(queries: int, gallery: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leakage, "QUERY_ROWS", 8)
    monkeypatch.setattr(leakage, "GALLERY_ROWS", 16)
    generator = np.random.default_rng(0)
    there = generator.integers(0, 2**63, gallery, np.uint64)
    asked = generator.integers(0, 2**63, queries, np.uint64)
    for row in range(0, min(queries, gallery), 2):  # half of them have near neighbours, some two at the same distance
        asked[row] = there[row] ^ np.uint64(1 << row)
        there[-1 - row // 2] = there[row]
    for distance in (0, 1, 20, 64):
        nearest, bits = nearest_within(asked, there, distance)
        assert (nearest.tolist(), bits.tolist()) == slow_nearest(asked, there, distance)
