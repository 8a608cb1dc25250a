"""What is announced to the disk: the images of coming batches, in bounded groups, and nothing else."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from threeshnet.batches.readahead import GROUPS_AHEAD, MEGABYTE, Readahead
from threeshnet.records import ImageArrays, Photo
from threeshnet.shards import direct
from threeshnet.shards.reader import ShardedSplit

from ..shard_folders import write_folder

IMAGES, REGIONS, WIDTH = 40, 36, 1024  # two shards of 20; 73,728 bytes an image


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> ShardedSplit:
    folder, half = tmp_path_factory.mktemp("readahead"), IMAGES // 2
    arrays = ImageArrays(regions=[np.full((REGIONS, WIDTH), n, np.float16) for n in range(half)])
    photos = ([Photo(f"{number}-{n}", Path("x.jpg"), "train", ("a",)) for n in range(half)] for number in range(2))
    write_folder(folder, [(some, arrays) for some in photos])
    return ShardedSplit(folder, "train")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """(file, first byte, bytes) of every hint."""
    found: list[tuple[str, int, int]] = []

    def hint(descriptor: int, start: int, size: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        found.append((os.path.realpath(f"/proc/self/fd/{descriptor}"), start, size))

    monkeypatch.setattr(direct.os, "posix_fadvise", hint)
    return found


def test_what_is_announced_are_the_rows_of_the_images(split: ShardedSplit, told: list[tuple[str, int, int]]) -> None:
    numbers = np.array([3, 4, 5, 19, 20, 39])
    told_bytes = split.again().announce(numbers, ["region"])
    assert told_bytes == sum(size for _, _, size in told)
    assert all(size <= direct.HINT_BYTES for _, _, size in told)
    covered = {(file, place) for file, start, size in told for place in range(start // 512, (start + size) // 512 + 1)}
    for number in numbers:
        file = split.folder / f"train-{number // 20:05}.h5"
        with h5py.File(file) as opened:
            place = opened["region/features"].id.get_chunk_info(number % 20).byte_offset  # pyright: ignore
        first, end = place // 512 + 1, (place + REGIONS * WIDTH * 2) // 512
        assert {(str(file.resolve()), sector) for sector in range(first, end)} <= covered
    assert told_bytes <= len(numbers) * (split.image_bytes(["region"]) + 2 * direct.GAP_BYTES)


@given(sizes=st.lists(st.integers(1, 30), max_size=20), megabytes=st.integers(1, 2))
def test_groups_hold_every_batch_in_turn_within_the_budget(sizes: list[int], megabytes: int) -> None:
    readahead = Readahead(splits=[], fields=["region"], megabytes=megabytes)
    readahead.image_bytes = 73_728
    numbers = np.random.default_rng(0).integers(0, 99, sum(sizes))
    batches = np.split(numbers, np.cumsum(sizes)[:-1]) if sizes else []
    assert all(count <= 2 for count, _ in readahead.groups(batches, 2))
    groups = list(readahead.groups(batches))
    assert sum(count for count, _ in groups) == len(batches)
    place = 0
    for count, images in groups:
        mine = batches[place : place + count]
        assert images.tolist() == sorted(set(np.concatenate(mine).tolist()))
        assert count == 1 or sum(map(len, mine)) * 73_728 <= megabytes * MEGABYTE / GROUPS_AHEAD
        place += count


def test_the_thread_stays_ahead_by_no_more_than_the_budget(split: ShardedSplit) -> None:
    readahead = Readahead(splits=[split], fields=["region"], megabytes=1)  # of 2.9: groups of 6 images
    assert readahead.active
    announced: list[np.ndarray] = []
    changed = threading.Condition()

    def note(images: np.ndarray) -> None:
        with changed:
            announced.append(images)
            changed.notify()

    readahead._announce = note  # pyright: ignore[reportAttributeAccessIssue]
    batches = np.split(np.random.default_rng(0).permutation(IMAGES), 20)
    readahead.start(batches)
    for done in range(20):
        with changed:  # the group of the next batch and the one after it
            assert changed.wait_for(lambda done=done: len(announced) >= min(7, done // 3 + 2), timeout=30)
            assert len(announced) <= done // 3 + 2
        readahead.advance()
    readahead.stop()
    for group in range(2):
        assert announced[group].tolist() == np.sort(np.concatenate(batches[3 * group : 3 * group + 3])).tolist()
    assert not any(thread.name == "readahead" for thread in threading.enumerate())


def test_small_sets_and_a_budget_of_nothing_start_no_thread(split: ShardedSplit) -> None:
    for megabytes in (0, 3):
        readahead = Readahead(splits=[split], fields=["region"], megabytes=megabytes)
        readahead.start([np.arange(4)])
        assert readahead._thread is None


def test_a_shard_that_is_gone_ends_the_thread_and_nothing_else(split: ShardedSplit, tmp_path: Path) -> None:
    readahead = Readahead(splits=[split], fields=["region"], megabytes=1)
    readahead.splits[0]._files._path_of = lambda shard: tmp_path / f"nothing-{shard}"
    readahead.start([np.arange(4)])
    assert readahead._thread is not None
    readahead._thread.join(timeout=30)
    assert not readahead._thread.is_alive()
    readahead.stop()
