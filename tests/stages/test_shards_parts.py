"""Shards made by several processes, and by processes that are killed: the same bytes as from one that is not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from experiments.benchmarks.extraction import kills
from PIL import Image
from pytorch_lightning.accelerators import CUDAAccelerator

from threeshnet.errors import ConfigError, DataError
from threeshnet.features.photos import DECODER
from threeshnet.features.tiny import Tiny
from threeshnet.records import AnnotatedSet, Photo
from threeshnet.shards.fill import ShardFiller
from threeshnet.shards.make import MadeShards, ShardSettings, finish, predictor
from threeshnet.shards.manifest import Manifest
from threeshnet.shards.plan import plan_shards
from threeshnet.shards.verify import verify
from threeshnet.shards.writer import ShardWriter, claim

from ..forks import Forks
from .pictures import quiet_shards

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["data=folder", "extractor=tiny", "images_per_shard=2", "workers=0", "accelerator=cpu", "progress=false"]


def photos_in(folder: Path, count: int = 10) -> AnnotatedSet:
    """A data set of `count` photos, one of them damaged, with the captions beside them."""
    if not folder.exists():
        folder.mkdir()
        for number in range(count):
            values = np.random.default_rng(number).integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(values).save(folder / f"{number}.png")
        (folder / "3.png").write_bytes(b"no photo")
        (folder / "captions.txt").write_text("".join(f"{number}.png\tphoto {number}\n" for number in range(count)))
    splits = ["train"] * (count - 3) + ["dev"] * 3
    photos = (Photo(f"{number}.png", folder / f"{number}.png", split, ("a",)) for number, split in enumerate(splits))
    return AnnotatedSet("toy", tuple(photos))


def make(tmp_path: Path, folder: str, **options: Any) -> MadeShards:
    raw, sizes = tmp_path / "raw", {"images_per_shard": 2, "batch_size": 2}
    return quiet_shards(photos_in(raw), raw, tmp_path / folder, **sizes | options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# --- parts


def test_parts_make_what_one_process_makes(tmp_path: Path) -> None:
    whole = make(tmp_path, "one")
    assert (whole.made, whole.kept, whole.missing) == (6, 0, 0)
    first = make(tmp_path, "parts", part=2, parts=3)
    assert (first.made, first.missing, first.finished) == (2, 4, None)
    assert sorted(contents(first.folder)) == ["dev-00001.h5", "train-00002.h5"]
    with pytest.raises(DataError, match="no manifest"):
        _ = first.manifest
    assert make(tmp_path, "parts", part=0, parts=3).missing == 2
    last = make(tmp_path, "parts", part=1, parts=3)
    assert (last.made, last.missing) == (2, 0)
    assert contents(last.folder) == contents(whole.folder)
    assert last.manifest == whole.manifest
    assert "left_out.txt" in contents(last.folder)


def test_parts_of_separate_disks_merge_by_copying(tmp_path: Path) -> None:
    whole = make(tmp_path, "one")
    merged = tmp_path / "merged"
    merged.mkdir()
    for part in range(2):
        for name, content in contents(make(tmp_path, f"disk{part}", part=part, parts=2).folder).items():
            (merged / name).write_bytes(content)
    again = make(tmp_path, "merged")
    assert (again.made, again.kept) == (0, 6)
    assert contents(merged) == contents(whole.folder)
    assert verify(merged) == whole.manifest


def test_every_shard_has_one_part_however_many_there_are(tmp_path: Path) -> None:
    idle = make(tmp_path, "parts", part=8, parts=9)
    assert (idle.made, idle.missing) == (0, 6)
    make(tmp_path, "parts")
    assert make(tmp_path, "parts", part=8, parts=9).finished is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": 2, "parts": 2}, "part=2 of=2: the parts of 2 are 0 to 1"),
        ({"part": -1, "parts": 2}, "part=-1"),
        ({"parts": 0}, "part=0 of=0: whole numbers"),
        ({"part": "a", "parts": 2}, "part=a of=2: whole numbers"),
        ({"part": 1, "parts": 2, "overwrite": True}, "overwrite=true with of=2"),
    ],
)
def test_parts_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    before = contents(make(tmp_path, "shards").folder)
    with pytest.raises(ConfigError, match=message):
        make(tmp_path, "shards", **options)
    assert contents(tmp_path / "shards") == before


def test_two_that_finish_at_once_write_the_same(tmp_path: Path) -> None:
    """The second arrives between the first one's look for a manifest and its rename."""
    made = make(tmp_path, "shards")
    before = contents(made.folder)
    annotated, raw, source = photos_in(tmp_path / "raw"), tmp_path / "raw", Tiny()
    makers = {field: source.identity() for field in source.fields}
    tables = source.tables()
    planned = plan_shards(annotated, raw=raw, makers=[makers, tables, DECODER, "32-true"], images_per_shard=2)
    recipes = {field: dict(source.recipe) for field in source.fields}
    facts = {"extractors": makers, "recipes": recipes, "precision": "32-true"}
    manifest = made.folder / "manifest.json"

    def ends(nested: bool) -> None:
        manifest.unlink(missing_ok=True)
        given = _Interrupted(tables, lambda: ends(False)) if nested else tables
        finish(annotated, made.folder, planned, raw, given, facts)

    ends(True)
    assert contents(made.folder) == before


class _Interrupted(dict):
    """A dictionary that lets something happen when it is first looked into."""

    def __init__(self, items: dict, happens: Any) -> None:
        super().__init__(items)
        self.happens = happens

    def get(self, key: Any, default: Any = None) -> Any:
        happens, self.happens = self.happens, lambda: None
        happens()
        return super().get(key, default)


def test_each_process_of_a_machine_takes_its_own_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("threeshnet.shards.make.pl.Trainer", lambda **options: asked.update(options))
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(CUDAAccelerator, "auto_device_count", staticmethod(lambda: 4))
    filler = ShardFiller(folder=tmp_path, pending=[], raw=tmp_path, grid_size=None)
    for accelerator, devices in (("auto", [2]), ("gpu", [2]), ("cpu", 1)):
        predictor(filler, ShardSettings(accelerator=accelerator, device=6, progress=False))
        assert asked["devices"] == devices


def test_a_cluster_s_environment_is_not_taken_for_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning alone would count the tasks of SLURM or torchrun and refuse a single device, or wait for the others."""
    whole = contents(make(tmp_path, "one").folder)
    slurm = {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "shards", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "GROUP_RANK": "0"}
    for name, environment in (("slurm", slurm), ("torchrun", torchrun)):
        with monkeypatch.context() as context:
            for key, value in environment.items():
                context.setenv(key, value)
            assert contents(make(tmp_path, name).folder) == whole


def test_the_command_takes_parts_and_says_what_is_missing(tmp_path: Path, command: Any) -> None:
    photos_in(tmp_path / "raw", 14)
    words = [f"raw={tmp_path / 'raw'}", f"out={tmp_path}", *SMALL]
    first = command("data", *words, "part=1", "of=2")
    assert first.code == 0, first.err
    assert "part 1 of 2: " in first.out
    assert "Still missing: " in first.out
    refused = command("data", *words, "part=2", "of=2")
    assert refused.code == 1
    assert refused.err.endswith("part=2 of=2: the parts of 2 are 0 to 1\n")
    last = command("data", *words, "part=0", "of=2")
    assert "Still missing" not in last.out
    assert "leakage: 0 photos are" in last.out
    assert {"part", "of", "device"}.isdisjoint(Manifest.load(tmp_path / "folder").config)


# --- one process a file


def test_a_file_that_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.h5"
    with ShardWriter(path):
        size = (tmp_path / "train-00000.h5.partial").stat().st_size
        assert refused_in_another_process(path)
        with pytest.raises(DataError, match="another process is writing it"):
            ShardWriter(path)
        assert (tmp_path / "train-00000.h5.partial").stat().st_size == size
    with h5py.File(path) as shard:
        assert shard.attrs["images"] == 0


def refused_in_another_process(path: Path) -> bool:
    """Whether a fork of this process may not write a shard there."""
    if process := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1
    code = 0
    try:
        ShardWriter(path)
    except DataError:
        code = 1
    finally:
        os._exit(code)


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.h5"
    (tmp_path / "train-00000.h5.partial").write_bytes(b"half of a shard" * 1000)
    with ShardWriter(path):
        pass
    whole = path.read_bytes()
    path.unlink()
    with ShardWriter(path):
        pass
    assert path.read_bytes() == whole
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_was_left_of_a_manifest_is_removed(tmp_path: Path) -> None:
    whole = contents(make(tmp_path, "one").folder)
    left = tmp_path / "other" / ".unfinished-x"
    left.mkdir(parents=True)
    (left / "manifest.json.partial").write_text("{")
    assert contents(make(tmp_path, "other").folder) == whole
    assert not left.exists()


def test_a_file_renamed_while_it_is_claimed_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial, whole = tmp_path / "x.partial", tmp_path / "x"
    partial.write_bytes(b"finished")
    fcntl = pytest.importorskip("fcntl")
    flock = fcntl.flock

    def renames(handle: Any, how: int) -> None:
        if not whole.exists():
            partial.rename(whole)
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", renames)
    with claim(partial) as handle:
        handle.write(b"anew")
    assert (whole.read_bytes(), partial.read_bytes()) == (b"finished", b"anew")


# --- real processes


def test_torchrun_splits_the_work(forks: Forks, tmp_path: Path, command: Any) -> None:
    photos_in(tmp_path / "raw", 14)
    words = [f"raw={tmp_path / 'raw'}", "out=out", *SMALL]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    ended = forks.run("data", words, folder=tmp_path / "two", processes=2, seconds=300)
    assert ended.code == 0, ended.err
    assert ended.out.count("left out: ") >= 1
    for file in ("out.txt", "err.txt"):
        (tmp_path / "two" / file).unlink()
    here = Path.cwd()
    os.chdir(tmp_path / "one")
    try:
        alone = command("data", *words)
    finally:
        os.chdir(here)
    assert alone.code == 0, alone.err
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert len(contents(tmp_path / "two")) > 5


def test_two_kills_change_no_byte(forks: Forks, tmp_path: Path) -> None:
    file = tmp_path / "kills.csv"
    settings = ["--kills", "2", "--photos", "24", "--shard", "3", "--workers", "0", "--csv", str(file)]
    ended = forks.run(kills.__name__, settings, folder=tmp_path, seconds=300)
    assert ended.code == 0, ended.out + ended.err
    assert "2 kills, " in ended.out
    assert "differing: none" in ended.out
    assert file.read_text().startswith("start,since,killed_after_s")


def test_the_comparison_of_the_kills_sees_a_byte(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train-00000.h5").write_bytes(name.encode())
        (tmp_path / name / "manifest.json").write_text(f'{{"a": 1, "commit": "{name}"}}')
    (tmp_path / "one" / "more.h5").write_bytes(b"")
    assert kills.differences(tmp_path / "one", tmp_path / "two") == ["more.h5", "train-00000.h5"]
