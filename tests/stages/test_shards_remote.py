"""Shards in an object store: the same arrays through a cache of bounded size, whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from threeshnet.errors import ConfigError, DataError
from threeshnet.records import ImageArrays, Photo
from threeshnet.shards import remote
from threeshnet.shards.manifest import Manifest, open_shards, open_view
from threeshnet.shards.reader import ShardedSplit

from ..shard_folders import write_folder

fsspec = pytest.importorskip("fsspec")
SHARDS, IMAGES = 5, 4


def made(folder: Path, seed: int) -> Path:
    rng, shards = np.random.default_rng(seed), []
    for number in range(SHARDS):
        arrays = ImageArrays(regions=[rng.standard_normal((3, 512)).astype(np.float16) for _ in range(IMAGES)])
        photos = [Photo(f"{number}-{n}", Path("x.jpg"), "train", (f"caption {number} {n}",)) for n in range(IMAGES)]
        shards.append((photos, arrays))
    write_folder(folder, shards)
    return folder


@pytest.fixture
def local(tmp_path: Path) -> Path:
    return made(tmp_path / "local", seed=0)


@pytest.fixture
def bucket(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The shards in fsspec's store in memory, and room for two of them in the cache."""
    address = f"memory://{tmp_path.name}/toy"
    store = fsspec.filesystem("memory")
    store.put(str(local), address, recursive=True)
    monkeypatch.setenv(remote.WHERE, str(tmp_path / "cache"))
    largest = max(file.stat().st_size for file in local.glob("*.h5"))
    monkeypatch.setenv(remote.SIZE, str(2.5 * largest / remote.GIGABYTE))
    return address


def cached(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.h5"))


def test_another_view_lies_beside_the_shards_in_the_bucket_too(bucket: str, tmp_path: Path) -> None:
    """Beside their address, not beside the folder that stands for it here."""
    folder = open_shards(bucket)
    with pytest.raises(
        DataError, match=rf"looked for manifest.json at {bucket.removesuffix('toy')}toy_view1; make .*upload"
    ):
        open_view(folder, "toy_view1")
    view = made(tmp_path / "view", seed=1)
    fsspec.filesystem("memory").put(str(view), f"{bucket}_view1", recursive=True)
    assert open_view(folder, "toy_view1") == open_shards(f"{bucket}_view1")
    own, here, there = (ShardedSplit(of, "train") for of in (folder, view, open_view(folder, "toy_view1")))
    photo, expected, found = (split.read([9], ["region"]).regions for split in (own, here, there))
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, photo)


def test_nothing_lies_beside_the_root_of_a_bucket(local: Path) -> None:
    """What looks like it is another bucket, of somebody else."""
    fsspec.filesystem("memory").put(f"{local}/", "memory://whole_bucket", recursive=True)
    with pytest.raises(DataError, match=r"toy_view1.*beside the root of a bucket.*folder"):
        open_view(open_shards("memory://whole_bucket"), "toy_view1")


def test_arrays_are_those_of_the_folder_in_a_cache_of_bounded_size(local: Path, bucket: str) -> None:
    folder = open_shards(bucket, "toy")
    assert open_shards(bucket.removesuffix("/toy"), "toy") == folder
    here, there = ShardedSplit(local, "train"), ShardedSplit(folder, "train")
    assert cached(folder) == []  # opening reads owners and captions over the network alone
    assert there.caption_texts == here.caption_texts
    assert cached(folder) == []
    for seed in range(4):
        numbers = np.random.default_rng(seed).permutation(SHARDS * IMAGES)
        found, expected = there.read(numbers).regions, here.read(numbers).regions
        assert found is not None
        assert expected is not None
        assert all(map(np.array_equal, found, expected))
        assert 1 <= len(cached(folder)) <= 2
    assert not list(folder.glob("*.partial"))


def test_the_least_recently_used_shard_goes_first(bucket: str) -> None:
    folder = open_shards(bucket)
    store = ShardedSplit(folder, "train")._store
    for number, moment in ((0, 100), (1, 200)):
        os.utime(store.path(f"train-{number:05}.h5"), (moment, moment))
    store.path("train-00000.h5")
    store.path("train-00002.h5")
    assert cached(folder) == ["train-00000.h5", "train-00002.h5"]


def test_several_at_once_bring_a_shard_once(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_shards(bucket)
    brought: list[str] = []
    bring = remote.RemoteStore._bring
    monkeypatch.setattr(
        remote.RemoteStore, "_bring", lambda self, file, here: (brought.append(file), bring(self, file, here))
    )
    stores = [ShardedSplit(folder, "train")._store for _ in range(4)]
    threads = [threading.Thread(target=store.path, args=("train-00003.h5",)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert brought == ["train-00003.h5"]


def test_a_shard_that_comes_damaged_is_refused_and_not_kept(bucket: str) -> None:
    folder = open_shards(bucket)
    split = ShardedSplit(folder, "train")
    store = fsspec.filesystem("memory")
    content = bytearray(store.cat_file(f"{bucket}/train-00001.h5"))
    content[-1] ^= 1
    store.pipe_file(f"{bucket}/train-00001.h5", bytes(content))
    with pytest.raises(DataError, match=r"train-00001.h5 came with sha256 .* the manifest says"):
        split.read([IMAGES])
    store.rm(f"{bucket}/train-00002.h5")
    with pytest.raises(DataError, match=r"train-00002.h5 could not be downloaded"):
        split.read([2 * IMAGES])
    assert cached(folder) == []


def test_shards_that_were_made_anew_are_another_folder(local: Path, bucket: str) -> None:
    before = open_shards(bucket)
    manifest = Manifest.load(local)
    fsspec.filesystem("memory").pipe_file(
        f"{bucket}/manifest.json", (local / "manifest.json").read_bytes().replace(b'"unknown"', b'"another"')
    )
    assert open_shards(bucket) != before
    assert Manifest.load(open_shards(bucket)).splits == manifest.splits


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("memory://nowhere", r"No shards: looked for manifest.json at memory://nowhere, memory://nowhere/toy"),
        ("nothing://bucket", r"nothing"),
        ("gs://bucket/toy", r"gcsfs"),
    ],
)
def test_addresses_that_do_not_work_say_why(
    address: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(remote.WHERE, str(tmp_path))
    with pytest.raises((ConfigError, DataError), match=said):
        open_shards(address, "toy")


def test_a_cache_without_room_says_what_is_needed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    split = ShardedSplit(open_shards(bucket), "train")
    monkeypatch.setenv(remote.SIZE, "0.000001")
    with pytest.raises(
        ConfigError, match=r"THREESHNET_CACHE_GIGABYTES allows 1,000 bytes, and train-00000.h5 alone has"
    ):
        split.read([0])
    monkeypatch.setenv(remote.SIZE, "much")
    with pytest.raises(ConfigError, match="'much' must be a number"):
        split.read([0])
