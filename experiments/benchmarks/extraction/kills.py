"""Kills the making of shards at random moments, starts it again until it is done, and compares every file.

    python -m experiments.benchmarks.extraction.kills --kills 20 --csv experiments/benchmarks/extraction/kills.csv
    python -m experiments.benchmarks.extraction.kills --raw <photos and captions.txt> --limit 300 extractor=lite0

Each start runs `threeshnet data` in a process of its own with all that it starts; SIGKILL leaves it no
moment to put anything in order. The processes are forks of this one, which has imported the libraries and computed
nothing. Three of four kills come when files are being written, the others at any moment. Without --raw, photos are
rendered. Exit code 1 when a file differs.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

import threeshnet.cli.data  # noqa: F401  (once, before the forks: a command loads it when there is work)
from threeshnet.cli import main as threeshnet_main
from threeshnet.shards.manifest import MANIFEST

from ..common import finish, fork, has_ended

COLUMNS = ("start", "since", "killed_after_s", "whole_shards", "unfinished_files", "manifest")
SHARED = ("data=folder", "accelerator=cpu", "progress=false")
MOST_STARTS = 10  # for each kill: a run that never comes to its end must not be killed for ever


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(options.raw).absolute() if options.raw else rendered(Path(scratch) / "raw", options.photos)
        settings = [*SHARED, f"raw={raw}", *(options.overrides or ["extractor=tiny"]), *options.sizes]
        undisturbed, killed = Path(scratch) / "undisturbed", Path(scratch) / "killed"
        begun = time.perf_counter()
        process = start(undisturbed, settings)
        written = wait_for_file(undisturbed, process)
        if finish(process) != 0:
            raise SystemExit((undisturbed / "log.txt").read_text())
        seconds = written - begun, time.perf_counter() - written
        rows = kill_until_done(killed, settings, options.kills, seconds, np.random.default_rng(options.seed))
        differing = differences(undisturbed / "out", killed / "out")
        files = len(digests(undisturbed / "out"))
    if options.csv:
        write(rows, Path(options.csv))
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)
    kills = sum(row[2] != "" for row in rows)
    said = ", ".join(differing) if differing else "none"
    console.print(f"{kills} kills, {len(rows)} starts; {files} files compared, differing: {said}", highlight=False)
    return 1 if differing else 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of `threeshnet data`; extractor=tiny when none is given")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--raw", help="folder of photos and captions")
    parser.add_argument("--photos", type=int, default=160, help="so many are rendered where --raw is not given")
    parser.add_argument("--shard", type=int, default=8, help="photos a shard")
    parser.add_argument("--workers", type=int, default=1, help="processes that decode photos")
    parser.add_argument("--limit", type=int, help="photos a split")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--csv", help="file for a row a start")
    options = parser.parse_args(arguments)
    options.sizes = [f"images_per_shard={options.shard}", f"workers={options.workers}", "batch_size=4"]
    options.sizes += [f"limit={options.limit}"] if options.limit else []
    return options


def rendered(folder: Path, photos: int) -> Path:
    """Photos of coloured noise, one of them damaged, and their captions."""
    folder.mkdir(parents=True)
    for number in range(photos):
        values = np.random.default_rng(number).integers(0, 256, (9, 12, 3), np.uint8)
        Image.fromarray(values).resize((640, 480)).save(folder / f"{number:05d}.jpg")
    (folder / "00003.jpg").write_bytes(b"no photo")
    captions = (f"{number:05d}.jpg\tphoto {number}\n" for number in range(photos))
    (folder / "captions.txt").write_text("".join(captions))
    return folder


def start(folder: Path, settings: Sequence[str]) -> int:
    """Starts the command in `folder`; returns the id of its process group."""
    return fork(folder, lambda: threeshnet_main(["data", *settings, "out=out"]))


def kill_until_done(
    folder: Path, settings: Sequence[str], kills: int, seconds: tuple[float, float], generator: np.random.Generator
) -> list[tuple]:
    """Start and kill until `kills` have struck, then let it end; a row for each start.

    seconds: until an undisturbed run writes its first file, and from there to its end. A kill among the writing comes
    so early that all of them together see about two runs.
    """
    rows: list[tuple] = []
    struck = 0
    while struck < kills and len(rows) < MOST_STARTS * kills:
        if (folder / "out" / "folder" / MANIFEST).is_file():
            shutil.rmtree(folder / "out")  # done before the last kill: the work begins again
        among_writing = struck % 4 < 3
        process = start(folder, settings)
        if among_writing:
            wait_for_file(folder, process)
        moment = float(generator.uniform(0, seconds[1] * min(1, 4 / kills) if among_writing else sum(seconds)))
        time.sleep(moment)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        hit = finish(process) == -signal.SIGKILL
        struck += hit
        since = "the first file" if among_writing else "the start"
        rows.append((len(rows) + 1, since, f"{moment:.2f}" if hit else "", *found(folder)))
    if finish(start(folder, settings)) != 0:
        raise SystemExit((folder / "log.txt").read_text())
    return [*rows, (len(rows) + 1, "", "", *found(folder))]


def wait_for_file(folder: Path, process: int) -> float:
    """Wait until the process has changed a file of the shard folder, or ended; the time of that moment."""
    before = state(folder)
    while state(folder) == before and not has_ended(process):
        time.sleep(0.002)
    return time.perf_counter()


def state(folder: Path) -> set[tuple[str, int]]:
    """Names and times of the files."""
    files = set()
    for file in (folder / "out" / "folder").glob("*"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            files.add((file.name, file.stat().st_mtime_ns))
    return files


def found(folder: Path) -> tuple[int, int, bool]:
    """Whole shards, files aside, and whether there is a manifest."""
    there = folder / "out" / "folder"
    return len([*there.glob("*.h5")]), len([*there.glob("*.partial")]), (there / MANIFEST).is_file()


def differences(one: Path, other: Path) -> list[str]:
    """Names of the files that are not in both folders with the same bytes."""
    first, second = digests(one), digests(other)
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file; of the manifest without the commit, which may be another one after an hour of kills."""
    made = {}
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        content = file.read_bytes()
        if file.name == MANIFEST:
            content = json.dumps(json.loads(content) | {"commit": ""}, sort_keys=True).encode()
        made[str(file.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return made


def write(rows: Sequence[tuple], file: Path) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])


if __name__ == "__main__":
    sys.exit(main())
