"""Instructions of the hot paths in Python and NumPy, counted by valgrind: they do not depend on what else runs.

    python -m experiments.benchmarks.stages.instructions            # compare with the budget, as `make nightly` does
    python -m experiments.benchmarks.stages.instructions --write    # count, and write the budget

A path may take MARGIN times its budget: versions of Python and NumPy differ by less, a loop that came back by more.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common import module_command, surroundings

BUDGET = Path(__file__).with_name("budget.json")
MARGIN = 1.3
# Callgrind collects inside of one C function, and writes a file whenever it is left: that of `dir`, which calls an
# object's `__dir__` and which hardly anything else calls. The last files are ours.
GATE = "PyObject_Dir"
OPTIONS = ("--tool=callgrind", f"--toggle-collect={GATE}", f"--dump-after={GATE}")
TOTAL = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)
IMAGES = 24


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write what was counted as the budget")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run:
        run()
        return
    if not valgrind():
        sys.exit("instructions are counted by valgrind, which is not installed (Debian: apt-get install valgrind)")
    found = counted()
    if options.write:
        BUDGET.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write("".join(f"{name}: {count:,}\n" for name, count in found.items()))
    if over := exceeded(found):
        sys.exit("\n".join(over))


def valgrind() -> str | None:
    return shutil.which("valgrind")


def counted() -> dict[str, int]:
    """Instructions of each path, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [valgrind() or "valgrind", *OPTIONS, f"--callgrind-out-file={out}"]
        one_thread = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        ended = subprocess.run(
            [*command, *module_command(__spec__.name, "--run")],
            env=surroundings() | one_thread,
            capture_output=True,
            text=True,
            check=False,
        )
        names = re.findall(r"^path (.+)$", ended.stdout, re.MULTILINE)
        files = sorted(Path(folder).glob("out.*"), key=lambda file: int(file.suffix[1:]))[-len(names) :]
        if ended.returncode or not len(files) == len(names) > 0:
            raise RuntimeError(f"{len(files)} counts of {len(names)} paths:\n{ended.stderr[-3000:]}")
        return {name: int(TOTAL.findall(file.read_text())[-1]) for name, file in zip(names, files, strict=True)}


def exceeded(found: Mapping[str, int]) -> list[str]:
    """A line for each path beyond the margin.  Raises KeyError for one without a budget."""
    budget = json.loads(BUDGET.read_text(encoding="utf-8"))
    beyond = {name: count / budget[name] for name, count in found.items() if count > MARGIN * budget[name]}
    return [f"{name}: {share:.2f} times its budget, {MARGIN} at most" for name, share in beyond.items()]


# ---- under valgrind


def run() -> None:
    """Each path once to warm up, then once inside the gate; its name is printed."""
    gc.disable()  # it would look through all libraries in whichever path it comes
    with tempfile.TemporaryDirectory() as folder:
        for name, work in paths(Path(folder)).items():
            work()
            dir(Gate(work))
            sys.stdout.write(f"path {name}\n")
    sys.stdout.flush()
    os._exit(0)  # what libraries do at the end takes minutes here


class Gate:
    """`dir(Gate(work))` calls `work` through GATE."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work

    def __dir__(self) -> list[str]:
        self.work()
        return []


def paths(folder: Path) -> dict[str, Callable[[], Any]]:
    """What must not become slower, by name."""
    import numpy as np

    from threeshnet.batches.collate import collate_images
    from threeshnet.batches.order import CaptionBatches
    from threeshnet.batches.tokenizers import SPECIALS, Wordpieces
    from threeshnet.records import AnnotatedSet, Photo
    from threeshnet.shards.plan import plan_shards
    from threeshnet.shards.verify import look_through

    from .made_up import SETTINGS, WORDS, arrays, keep, shards

    setting = SETTINGS["coco"].small
    split, made, kept = shards(setting, folder / "made_up", IMAGES), arrays(setting, IMAGES), keep()
    numbers = np.random.default_rng(0).permutation(IMAGES)
    tokenizer = Wordpieces([*SPECIALS, *WORDS])
    sentences = [" ".join(WORDS)] * 64
    photos = [Photo(f"{number:05}", folder / f"{number:05}.jpg", "train", ("a dog",) * 5) for number in range(200)]
    annotated = AnnotatedSet("made_up", tuple(photos))
    return {
        "collate 24 images": lambda: collate_images(made, keep=kept, as_stored=True),
        "read 24 images": lambda: split.read(numbers, ["region", "seg"], extras=False),
        "64 sentences to wordpieces": lambda: tokenizer(sentences),
        "an epoch of 5,000 captions": lambda: list(CaptionBatches(5_000, batch_size=128, seed=0)),
        "plan the shards of 200 photos": lambda: plan_shards(annotated, raw=folder, makers={}, images_per_shard=50),
        "verify a shard of 24 images": lambda: look_through(split.folder),
    }


if __name__ == "__main__":
    main()
