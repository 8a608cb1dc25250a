"""Kills training at random moments, in chains of ten, and compares what comes of it with a run that was left alone.

    make kills                                  # 100 kills; goes on where it was cut, from the rows of the CSV file
    python -m experiments.benchmarks.interruptions.kills --kills 4 --chain 2 --csv <file>

Each start runs `threeshnet train … resume=true` in a process of its own with all that it starts; SIGKILL
leaves it no moment to put anything in order. The processes are forks of this one, which has imported the libraries and
computed nothing. Half of the kills come while a checkpoint is being written, which is seen by the file beside it; the
others some moments after one, or on the way to the first step. Chains take turns with 0 and 2 loader workers, and all
are compared with one undisturbed run without workers. Exit code 1 when a run differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from threeshnet.cli import main as threeshnet
from threeshnet.files import read_rows, write_rows

from ..common import finish, write_page
from .runs import RUN, SHARDS, digest, partial_of, start, step_of, wait_for_save

KINDS = ("in a save", "after a save", "in a save", "after the start")


class Kill(NamedTuple):
    """A row of the CSV file."""

    chain: int
    workers: int
    kill: int
    kind: str
    after_s: str  # since the start of the process; empty for the run to the end
    resumed_at_step: int
    kept_step: int  # of the newest whole checkpoint afterwards
    unfinished_file: bool
    equal: str  # of the whole chain, in the row of its last start


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    rows = read(options.csv)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if finish(start(folder / "shards", threeshnet, "data", [*SHARDS, "out=shards"])):
            raise SystemExit((folder / "shards" / "log.txt").read_text())
        where = [f"shards={folder / 'shards' / 'shards' / 'synthetic'}", f"trainer.max_epochs={options.epochs}"]
        begun = time.perf_counter()
        undisturbed = start(folder / "undisturbed", threeshnet, "train", [*RUN, *where, "batches.workers=0", "out=run"])
        wait_for_save(folder / "undisturbed", undisturbed)
        to_first = time.perf_counter() - begun
        if finish(undisturbed):
            raise SystemExit((folder / "undisturbed" / "log.txt").read_text())
        expected = digest(folder / "undisturbed" / "run")
        seconds = to_first, time.perf_counter() - begun - to_first
        while sum(row.kill > 0 for row in rows) < options.kills:
            chain = len({row.chain for row in rows})
            rows += killed(folder, chain, [*RUN, *where], seconds, expected, options)
            write_rows(options.csv, Kill._fields, [row._asdict() for row in rows])
    if backwards := sum(row.kept_step < row.resumed_at_step for row in rows if row.kill):
        raise SystemExit(f"{backwards} kills left an older checkpoint than they began with")
    write_page(options.csv.parent)
    return int(any(row.equal == "False" for row in rows))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--chain", type=int, default=10, help="kills of one run")
    parser.add_argument("--epochs", type=int, default=6, help="of each run, of seven steps")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--csv", type=Path, required=True, help="a row a start; the table goes to README.md beside it")
    return parser.parse_args(arguments)


def killed(
    scratch: Path, chain: int, settings: Sequence[str], seconds: tuple[float, float], expected: str, options: Any
) -> list[Kill]:
    """One run, killed again and again until the chain is long enough, then left to come to its end.

    The chain is shorter where the run comes to its end before a kill.
    """
    folder, workers = scratch / f"chain-{chain}", 2 * (chain % 2)
    shutil.rmtree(folder, ignore_errors=True)
    generator = np.random.default_rng([options.seed, chain])
    words = [*settings, f"batches.workers={workers}", "out=run", "resume=true"]
    metrics_file = folder / "run" / "metrics.json"
    rows: list[Kill] = []
    ended = False
    while len(rows) < options.chain:
        kind = KINDS[len(rows) % len(KINDS)]
        before, begun = step_of(folder), time.perf_counter()
        process = start(folder, threeshnet, "train", words)
        if kind == "after the start":
            time.sleep(float(generator.uniform(0, 1.5 * seconds[0])))
        else:
            for _ in range(int(generator.integers(1, 3))):
                wait_for_save(folder, process)
            longest = 0.02 if kind == "in a save" else 0.1 * seconds[1]
            time.sleep(float(generator.uniform(0, longest)))
        unfinished = partial_of(folder).exists()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        code = finish(process)
        ended = code == 0
        if ended:
            break
        if code != -signal.SIGKILL:
            raise SystemExit(f"chain {chain} ended after {len(rows)} kills: {(folder / 'log.txt').read_text()[-2000:]}")
        after = f"{time.perf_counter() - begun:.2f}"
        rows.append(Kill(chain, workers, len(rows) + 1, kind, after, before, step_of(folder), unfinished, ""))
    before = before if ended else step_of(folder)
    scored = not ended and metrics_file.exists()  # the last kill came between the scores and the exit
    if not ended and finish(start(folder, threeshnet, "train", words)):
        raise SystemExit((folder / "log.txt").read_text())
    equal = digest(folder / "run") == expected
    metrics = json.loads(metrics_file.read_text())
    if not scored and metrics["resumed_at_step"] != before:
        raise SystemExit(
            f"metrics.json says resumed_at_step={metrics['resumed_at_step']}; the checkpoint was of {before}"
        )
    if equal:
        shutil.rmtree(folder)
    return [*rows, Kill(chain, workers, 0, "to the end", "", before, metrics["steps"], False, str(equal))]


def read(file: Path) -> list[Kill]:
    """The rows of the chains that are whole."""
    counts = {"chain", "workers", "kill", "resumed_at_step", "kept_step"}
    rows = [
        Kill(**{name: int(cell) if name in counts else cell for name, cell in row.items()})._replace(  # pyright: ignore
            unfinished_file=row["unfinished_file"] == "True"
        )
        for row in read_rows(file)
    ]
    whole = {row.chain for row in rows if row.equal}
    return [row for row in rows if row.chain in whole]


if __name__ == "__main__":
    sys.exit(main())
