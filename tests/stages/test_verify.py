"""The look through shards: every fault that is put in is named with its shard, its row and its image."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from threeshnet.errors import DataError
from threeshnet.files import sha256
from threeshnet.records import ImageArrays, Photo
from threeshnet.shards import shard_checks
from threeshnet.shards.manifest import MANIFEST, Manifest
from threeshnet.shards.row_checks import CHUNK_BYTES, RowNames, chunks, not_finite
from threeshnet.shards.verify import bytes_to_look_at, look_through, verify

from ..shard_folders import write_folder, write_shard

CLASSES = 5
GRID: Any = {"grid_size": (2, 3)}
REGIONS = 3  # of every image
NO_BOX = "region/boxes has boxes that are not x1 <= x2, y1 <= y2 in [0, 1] of the photo"
Change = Callable[[h5py.File], None]


def arrays_of(count: int, width: int = 6, seed: int = 0) -> ImageArrays:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((count, REGIONS, 2, 2), np.float32), axis=2).reshape(count, REGIONS, 4)
    return ImageArrays(
        regions=list(rng.standard_normal((count, REGIONS, width)).astype(np.float16)),
        boxes=list(corners),
        scores=list(rng.random((count, REGIONS), np.float32)),
        grid=rng.standard_normal((count, 6, 8)).astype(np.float16),
        seg_semantic=rng.random((count, CLASSES, 7, 7)).astype(np.float16),
        seg_map=rng.integers(0, CLASSES, (count, 64, 64), np.uint8),
        seg_categories=rng.integers(0, 2, (count, CLASSES), np.uint8),
    )


def content_of(start: int, count: int, **options: Any) -> tuple[list[Photo], ImageArrays]:
    numbers = range(start, start + count)
    photos = [Photo(f"id{n}", Path(f"{n}.jpg"), "train", (f"one {n}", f"two {n}"), size=(4, 3)) for n in numbers]
    return photos, arrays_of(count, **options)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    names = tuple(f"class {number}" for number in range(CLASSES))
    write_folder(folder, [content_of(0, 5), content_of(5, 4)], options=GRID, class_names=names)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "shards"))


def put(key: str, row: Any, value: Any) -> Change:
    def change(shard: h5py.File) -> None:
        dataset: Any = shard[key]
        dataset[row] = value

    return change


def swap(key: str, first: int, second: int) -> Change:
    def change(shard: h5py.File) -> None:
        dataset: Any = shard[key]
        dataset[first], dataset[second] = dataset[second], dataset[first]

    return change


def faults_of(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        verify(folder)
    return str(caught.value)


def test_a_sound_folder_is_counted(folder: Path) -> None:
    looked: list[int] = []
    found = look_through(folder, looked.append)
    assert (found.faults, found.remarks) == ([], [])
    counted = found.splits["train"]
    assert (counted.images, counted.captions, counted.regions) == (9, 18, 9 * REGIONS)
    assert (counted.shards, counted.sound_checksums) == (2, 2)
    assert counted.bytes == sum(file.stat().st_size for file in folder.glob("*.h5"))
    assert verify(folder) == Manifest.load(folder)
    numbers = 9 * (6 * 8 * 2 + CLASSES * (7 * 7 * 2 + 1) + 64 * 64 + 8) + 9 * REGIONS * (6 * 2 + 5 * 4)
    assert sum(looked) == counted.bytes + numbers  # every byte of a file for its checksum, every number for its value
    assert bytes_to_look_at(folder) == 2 * counted.bytes


ROW_FAULTS: dict[str, tuple[Change, str]] = {
    "nan in a region": (
        put("region/features", (7, 2), np.nan),
        "region/features has numbers that are not finite: row 7 (image 'id7')",
    ),
    "infinity in a grid": (
        put("grid/features", (3, 5, 7), -np.inf),
        "grid/features has numbers that are not finite: row 3 (image 'id8')",
    ),
    "nan in seg/semantic": (
        put("seg/semantic", (1, 4, 6, 6), np.nan),
        "seg/semantic has numbers that are not finite: row 1 (image 'id6')",
    ),
    "nan in a score": (
        put("region/scores", 11, np.nan),
        "region/scores has numbers that are not finite: row 11 (image 'id8')",
    ),
    "box out of range": (put("region/boxes", (2, 2), 1.5), f"{NO_BOX}: row 2 (image 'id5')"),
    "box of nan": (put("region/boxes", (4, 0), np.nan), f"{NO_BOX}: row 4 (image 'id6')"),
    "box turned round": (put("region/boxes", 0, (0.5, 0, 0.2, 1)), f"{NO_BOX}: row 0 (image 'id5')"),
    "strange class": (
        put("seg/map", (2, 63, 63), 77),
        "seg/map has class 77; there are 0 to 4, and 255 for void: row 2 (image 'id7')",
    ),
    "strange category": (
        put("seg/categories", (3, 0), 2),
        "seg/categories has numbers other than 0 and 1: row 3 (image 'id8')",
    ),
    "negative size": (put("image/size", (1, 0), -3), "image/size has sizes below 0: row 1 (image 'id6')"),
    "wrong owner": (put("caption/owner", 7, 9), "caption/owner from 0 to 9; there are images 0 to 3: row 7"),
    "negative owner": (put("caption/owner", 0, -1), "caption/owner from -1 to 3; there are images 0 to 3: row 0"),
    "swapped owners": (
        swap("caption/owner", 1, 6),
        "caption/owner goes back to an earlier image: rows 2 (image 'id6'), 6 (image 'id5')",
    ),
    "empty caption": (put("caption/text", 5, " \t"), "1 empty captions: row 5 (image 'id7')"),
    "text that is not UTF-8": (
        put("caption/text", 5, b"caf\xe9"),
        "caption/text has text that is not UTF-8: row 5 (image 'id7')",
    ),
    "id in two shards": (put("image/id", 2, "id1"), "image id 'id1' is in train-00000.h5 too: row 2"),
    "id twice in a shard": (put("image/id", 2, "id5"), "image id 'id5' is in train-00001.h5 too: row 2"),
    "no id": (put("image/id", 2, ""), "image/id is empty: row 2"),
    "offsets that fall": (
        put("region/offsets", 2, 2),
        "region/offsets gives an image -1 regions, not 1 to 36: row 1 (image 'id6')",
    ),
    "offsets that end early": (put("region/offsets", 4, 11), "region/offsets: 5 from 0 to 11; expected 5 from 0 to 12"),
}


@pytest.mark.parametrize("case", ROW_FAULTS)
def test_a_fault_is_named_by_shard_row_and_image(folder: Path, case: str) -> None:
    change, message = ROW_FAULTS[case]
    with h5py.File(folder / "train-00001.h5", "r+") as shard:
        change(shard)
    found = faults_of(folder)
    assert f"  - train-00001.h5: {message}" in found
    assert "train-00001.h5: sha256" in found
    assert "train-00000.h5: " not in found
    assert len(found.splitlines()) == 4, found  # the head, the checksum, the fault, the way out


def test_every_row_is_named_and_neighbours_as_ranges(folder: Path) -> None:
    with h5py.File(folder / "train-00000.h5", "r+") as shard:
        for row in (0, 2, 3, 4):
            put("grid/features", (row, 0, 0), np.inf)(shard)
        for row in (2, 3, 9, 10):
            put("region/features", (row, 0), np.inf)(shard)
    found = faults_of(folder)
    assert "not finite: rows 0 (image 'id0'), 2-4 (images 'id2' to 'id4')" in found
    assert "not finite: rows 2-3 (images 'id0' to 'id1'), 9-10 (image 'id3')" in found


def test_a_flipped_byte_is_found_by_the_checksum(folder: Path) -> None:
    file = folder / "train-00000.h5"
    with h5py.File(file) as shard:
        data: Any = shard["seg/map"]
        place = data.id.get_chunk_info(0).byte_offset + 100
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    found = faults_of(folder)
    assert "train-00000.h5: sha256 " in found
    assert "the manifest says " in found
    assert "train-00001" not in found


def test_files_that_are_torn_missing_or_foreign_are_all_in_one_report(folder: Path) -> None:
    whole = (folder / "train-00000.h5").read_bytes()
    (folder / "train-00000.h5").write_bytes(whole[: len(whole) // 2])
    (folder / "train-00001.h5").unlink()
    (folder / "dev-00000.h5").write_bytes(whole)
    found = faults_of(folder)
    assert "train-00000.h5: sha256" in found
    assert "train-00000.h5: cannot be read (" in found
    assert "train-00001.h5: missing" in found
    assert "dev-00000.h5: not in the manifest" in found
    assert "make" not in found.splitlines()[0]
    assert "give the command that made them again" in found


INSIDE = shard_checks.look_inside


def crashes(file: Path, *others: Any) -> Any:
    return os.kill(os.getpid(), signal.SIGKILL) if file.name == "train-00000.h5" else INSIDE(file, *others)


def test_a_file_that_takes_its_reader_down_is_named_and_the_rest_is_looked_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in = {"train-00000.h5": put("grid/features", (0, 0, 0), 1), "train-00001.h5": put("image/size", (0, 0), -1)}
    for name, change in put_in.items():
        with h5py.File(folder / name, "r+") as shard:
            change(shard)
    monkeypatch.setattr(shard_checks, "look_inside", crashes)
    found = faults_of(folder)
    assert "train-00000.h5: cannot be read (the process that read it crashed)" in found
    assert "train-00001.h5: image/size has sizes below 0: row 0 (image 'id5')" in found


def renamed(file: Path) -> None:
    with h5py.File(file, "r+") as shard:
        shard.move("seg/map", "seg/maps")
        put("grid/features", (1, 0, 0), np.nan)(shard)


def of_another_type(file: Path) -> None:
    with h5py.File(file, "r+") as shard:
        del shard["seg/map"]
        shard["seg/map"] = np.zeros((4, 64, 64), np.float32)


def with_hashes(file: Path) -> None:
    with h5py.File(file, "r+") as shard:
        shard["image/sha256"] = np.zeros((4, 32), np.uint8)
        shard["image/perceptual_hash"] = np.zeros(3, np.uint64)


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (renamed, ["no seg/map", "grid/features has numbers that are not finite: row 1 (image 'id6')"]),
        (of_another_type, ["seg/map is of type float32, which cannot be"]),
        (with_hashes, ["image/perceptual_hash: 3 rows; expected 4"]),
        (
            lambda file: write_shard(file, *content_of(5, 4, width=7), **GRID),
            ["region_width: 7 where 6 was expected", "region/features has rows of shape (7,); expected (6,)"],
        ),
        (
            lambda file: write_shard(file, *content_of(5, 3), **GRID),
            [
                "says of itself that it has 3 images; the manifest says 4",
                "grid/features, seg/semantic, seg/map, seg/categories: 3 rows; expected 4",
                "caption/text, caption/owner, caption/tag: 6 rows; expected 8",
            ],
        ),
    ],
)
def test_a_shard_of_another_form(folder: Path, change: Callable[[Path], Any], messages: list[str]) -> None:
    change(folder / "train-00001.h5")
    found = look_through(folder)
    assert all(any(message in fault for fault in found.faults) for message in messages)
    assert not any("image/sha256" in fault for fault in found.faults)
    strange = ["train-00001.h5: seg/maps is not part of a shard; it is never read"] if change is renamed else []
    assert found.remarks == strange


def test_two_shards_that_changed_places_are_found(folder: Path) -> None:
    first, second = (folder / f"train-0000{number}.h5" for number in (0, 1))
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)
    found = faults_of(folder)
    assert "train-00000.h5: sha256" in found
    assert "train-00001.h5: sha256" in found
    assert "train-00000.h5: says of itself that it has 4 images; the manifest says 5" in found


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda content: content["splits"]["train"].update(images=8), "split 'train' has 8 images, its shards 9"),
        (lambda content: content["splits"]["train"]["shards"][1].update(captions=9), "it has 8 captions; the manifest"),
        (lambda content: content["splits"]["train"]["shards"].pop(), "train-00001.h5: not in the manifest"),
        (lambda content: content["splits"].update(dev=content["splits"]["train"]), "train-00000.h5 is listed 2 times"),
        (lambda content: content["layout"].update(classes=6), "not a manifest of format 1"),
        (lambda content: content["class_names"].pop(), "4 class names for 5 classes"),
        (lambda content: content["class_names"].reverse(), "its class_table is not the hash of its class_names"),
        (lambda content: content["layout"]["dtypes"].pop("grid"), "with the fields region, seg"),
    ],
)
def test_an_edited_manifest(folder: Path, edit: Callable[[Any], Any], message: str) -> None:
    content = json.loads((folder / MANIFEST).read_text("utf-8"))
    edit(content)
    (folder / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
    assert message in faults_of(folder)


def rewritten(folder: Path, change: Change) -> list[str]:
    """Remarks after a change that the manifest knows of."""
    file = folder / "train-00001.h5"
    with h5py.File(file, "r+") as shard:
        change(shard)
    text = (folder / MANIFEST).read_text("utf-8")
    old = Manifest.load(folder).splits["train"].shards[1].sha256
    (folder / MANIFEST).write_text(text.replace(old, sha256(file)), encoding="utf-8")
    found = look_through(folder)
    assert found.faults == []
    return found.remarks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("seg/semantic", (2, 0, 0, 0), 1.5), "seg/semantic has numbers outside of [0, 1]: row 2 (image 'id7')"),
        (put("grid/features", 1, 0), "grid/features has rows of nothing but zeros: row 1 (image 'id6')"),
        (put("caption/text", 4, "a\x07b"), "caption/text has control characters (or line breaks): row 4 (image 'id7')"),
        (put("caption/text", 4, "a " * 1001), "caption/text has more than 2000 characters: row 4 (image 'id7')"),
        (put("caption/owner", slice(2, 4), 0), "no caption for 1 of 4 images: row 1 (image 'id6')"),
    ],
)
def test_what_may_be_is_a_remark(folder: Path, change: Change, message: str) -> None:
    assert rewritten(folder, change) == [f"train-00001.h5: {message}"]


def test_what_a_stopped_run_left_is_a_remark(folder: Path) -> None:
    (folder / "train-00002.h5.partial").write_bytes(b"half")
    remarks = look_through(folder).remarks
    assert remarks == ["train-00002.h5.partial: left behind by a run that was stopped; it is never read"]


def test_line_breaks_of_other_scripts_are_no_control_characters(folder: Path) -> None:
    assert rewritten(folder, put("caption/text", 4, "مرحبا 👩‍👩‍👧 e\u0301 \u00a0 \u200f")) == []


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_fast_search_for_numbers_that_are_not_finite(dtype: Any) -> None:
    rows = np.random.default_rng(0).standard_normal((300, 3, 5)).astype(dtype)
    rows[:4, 1, 2] = np.nan, np.inf, -np.inf, -np.nan
    rows[4:8, 0, 0] = np.finfo(dtype).max, np.finfo(dtype).min, np.finfo(dtype).smallest_subnormal, -0.0
    np.testing.assert_array_equal(not_finite(rows), ~np.isfinite(rows).all(axis=(1, 2)))


def test_chunks_are_bounded_and_complete(tmp_path: Path) -> None:
    seen: list[int] = []
    with h5py.File(tmp_path / "file.h5", "w") as file:
        data = file.create_dataset("rows", data=np.arange(40 * 70_000, dtype=np.float64).reshape(40, 70_000))
        parts = list(chunks(data, seen.append))
        assert len(parts) > 1
        assert max(part.nbytes for _, part in parts) <= CHUNK_BYTES
        np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), data[:])
        assert [start for start, _ in parts] == np.cumsum([0, *(len(part) for _, part in parts[:-1])]).tolist()
    assert sum(seen) == 40 * 70_000 * 8


def test_rows_without_an_image_are_numbers_alone() -> None:
    names = RowNames(["a"], np.array([0, 4]), np.array([0, 2]))
    assert names.say("caption/text", np.array([1])) == "row 1"
    assert names.say("region/boxes", np.array([0, 1, 5])) == "rows 0-1 (image 'a'), 5"


# --- the command


def test_the_command_names_the_fault_and_fails(folder: Path, command: Any) -> None:
    with h5py.File(folder / "train-00001.h5", "r+") as shard:
        put("grid/features", (3, 0, 0), np.nan)(shard)
    ended = command("verify", f"shards={folder}", "progress=false")
    assert ended.code == 1
    assert "train-00001.h5: grid/features has numbers that are not finite: row 3 (image 'id8')" in ended.err
    assert "Traceback" not in ended.err
    assert not (folder / "card.html").exists()


def test_the_command_counts_and_writes_the_card(folder: Path, command: Any) -> None:
    (folder / "old.h5.partial").touch()
    ended = command("verify", f"shards={folder.parent}", "progress=false")
    assert (ended.code, ended.err) == (0, "")
    assert "remark: old.h5.partial" in ended.out
    assert "2 of 2 right" in ended.out
    assert "region 6 float16, grid 2x3x8 float16, seg 5 classes float16" in " ".join(ended.out.split())
    assert "no faults" in ended.out
    assert (folder / "card.html").read_text("utf-8").startswith("<!doctype html>")


def test_the_command_without_shards_says_so(tmp_path: Path, command: Any) -> None:
    ended = command("verify", f"shards={tmp_path}", "progress=false")
    assert ended.code == 1
    assert "No shards of a data set" in ended.err
