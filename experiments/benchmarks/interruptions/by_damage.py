"""Runs whose disks, shards, processes or run directories fail them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from threeshnet.cli import main
from threeshnet.runs.run import Run

from ..common import finish
from .by_signals import signalled
from .runs import start, wait_for_save
from .scene import NotPermitted, Scene, fault

MOUNT_SIZE = "60m"  # room for last, previous, best and what is written beside them, 13 MB each


# ---- disks


@contextlib.contextmanager
def disk(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as refused:
        raise NotPermitted("mounting") from refused
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@fault("a full disk")
def full_disk(scene: Scene) -> int:
    with disk(scene.out, f"size={MOUNT_SIZE}"):
        process = scene.begin()
        for _ in range(2):  # the first one is kept
            wait_for_save(scene.folder, process)
        filler = scene.out / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(b"0" * 4096)
        code = finish(process)
        filler.unlink()
        shutil.copytree(scene.out, scene.folder / "kept")
    shutil.copytree(scene.folder / "kept", scene.out, dirs_exist_ok=True)
    return code


@fault("a read-only output folder")
def read_only(scene: Scene) -> int:
    with disk(scene.out, "ro"):
        return finish(scene.begin())


# ---- shards


@contextlib.contextmanager
def mended(shard: Path) -> Iterator[None]:
    """Whatever happens to the shard inside, it is whole again afterwards."""
    kept = shard.parent.with_name("kept.h5")
    shutil.copy(shard, kept)
    yield
    kept.replace(shard)


def while_running(scene: Scene, damage: Callable[[Path], None]) -> int:
    with mended(scene.shard):
        process = scene.begin()
        wait_for_save(scene.folder, process)
        damage(scene.shard)
        return finish(process)


@fault("a shard vanishes while it is open")
def shard_vanishes(scene: Scene) -> int:
    return while_running(scene, Path.unlink)


@fault("a shard is not there at the start")
def shard_missing(scene: Scene) -> int:
    with mended(scene.shard):
        scene.shard.unlink()
        return finish(scene.begin())


@fault("a shard shrinks")
def shard_shrinks(scene: Scene) -> int:
    return while_running(scene, lambda file: os.truncate(file, file.stat().st_size // 2))


@fault("a byte of a shard flipped, then `make verify`")
def flipped_shard(scene: Scene) -> int:
    with mended(scene.shard):
        flip(scene.shard, scene.shard.stat().st_size // 2)
        return finish(scene.begin_other(main, "verify", f"shards={scene.folder / 'synthetic'}"))


def flip(file: Path, place: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)
        stream.seek(place)
        stream.write(bytes([byte[0] ^ 1]))


@fault("NaN in a feature row")
def feature_is_no_number(scene: Scene) -> int:
    with h5py.File(scene.shard, "r+") as opened:
        features: Any = opened["region/features"]
        kept = features[7]
        features[7] = np.nan
    code = finish(scene.begin())
    with h5py.File(scene.shard, "r+") as opened:
        features = opened["region/features"]
        features[7] = kept
    return code


@fault("NaN in the loss")
def loss_is_no_number(scene: Scene) -> int:
    from threeshnet.objectives.triplet import TripletLoss

    def command() -> None:
        ours, count = TripletLoss.forward, iter(range(1_000_000))

        def broken(self: Any, *arguments: Any) -> Any:
            numbers = ours(self, *arguments)
            return {"loss": numbers["loss"] * float("nan")} if next(count) == 10 else numbers

        TripletLoss.forward = broken  # pyright: ignore[reportAttributeAccessIssue]
        main()

    return finish(scene.begin(command=command))


@fault("a loader's worker is killed")
def worker_killed(scene: Scene) -> int:
    scene.words.append("batches.workers=1")
    process = scene.begin()
    wait_for_save(scene.folder, process)
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    return finish(process)


# ---- the run directory


@fault("last.ckpt was cut short")
def torn(scene: Scene) -> int:
    signalled(scene, signal.SIGTERM)
    os.truncate(Run(scene.out).last, 100_000)
    return finish(scene.begin("resume=true"))


@fault("a byte of last.ckpt flipped")
def flipped(scene: Scene) -> int:
    signalled(scene, signal.SIGTERM)
    flip(Run(scene.out).last, 150_000)
    return finish(scene.begin("resume=true"))


@fault("a second run in the same folder")
def second_run(scene: Scene) -> int:
    first = scene.begin()
    wait_for_save(scene.folder, first)
    other = Scene(scene.folder / "other", scene.words)
    words = [*scene.settings, f"out={scene.out}", "resume=true"]
    code = finish(start(other.folder, main, "train", words))
    finish(first)
    shutil.copy(other.folder / "log.txt", scene.folder / "log.txt")
    return code


@fault("a file system without locks")
def without_locks(scene: Scene) -> int:
    def refusing(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def command() -> None:
        fcntl.flock = refusing
        main()

    process = scene.begin(command=command)
    wait_for_save(scene.folder, process)
    os.killpg(process, signal.SIGKILL)
    finish(process)
    return finish(scene.begin("resume=true", command=command))


@fault("a clock that jumps")
def clock(scene: Scene) -> int:
    def command() -> None:
        true = time.time
        time.time = lambda: true() + random.Random(os.urandom(8)).uniform(-1e6, 1e6)
        main()

    return finish(scene.begin(command=command))
