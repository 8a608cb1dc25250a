"""Every stage beside a plain twin and the floor: make bench [STAGE="reading step"] [ARGS="--precision bfloat16"].

The ways of a case take turns in one process. The twin must give the same results before anything is timed. What is
measured replaces its rows in rows.csv, of the same size and precision; then page and figure are made anew.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from threeshnet.files import read_rows, write_rows
from threeshnet.installation import current_commit
from threeshnet.threads import adapt_threads, cores

from ..common import write_page
from . import data, encoders, figure, learning, photos, scoring
from .made_up import SETTINGS
from .stage import NAIVE, OURS, Stage, World, check, turns

HERE = Path(__file__).parent
STAGES: dict[str, Stage] = photos.STAGES | data.STAGES | encoders.STAGES | learning.STAGES | scoring.STAGES
COLUMNS = ("stage", "size", "items", "way", "repeat", "seconds", "cores", "load", "commit", "precision")
KEY = ("stage", "size", "precision")  # of the rows that a measurement replaces
FLOAT32 = "float32"
LEAST, MOST = 3, 15  # turns of a case
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    adapt_threads.decided = True  # all ways of a case get the same number, whatever else the machine does
    options.out.mkdir(parents=True, exist_ok=True)
    file, console = options.out / "rows.csv", Console()
    commit = current_commit()  # before the rows change, which lie in the repository too
    rows: list[Row] = list(read_rows(file))
    for stage in options.stages or STAGES:
        measured = list(rows_of(stage, options, commit))
        replaced = {tuple(row[name] for name in KEY) for row in measured}
        rows = [row for row in rows if tuple(row[name] for name in KEY) not in replaced] + measured
        rows.sort(
            key=lambda row: (list(STAGES).index(row["stage"]), list(STAGES[row["stage"]].sizes).index(row["size"]))
        )
        write_rows(file, COLUMNS, rows)
        for line in summary(measured):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    figure.draw(read_rows(file), options.out)
    write_page(options.out)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"all by default: {', '.join(STAGES)}")
    parser.add_argument("--sizes", nargs="+", help="of the stages, as the page names them; all by default")
    parser.add_argument("--seconds", type=float, default=6, help="of a case; three turns are taken whatever they last")
    parser.add_argument("--precision", choices=(FLOAT32, "bfloat16"), default=FLOAT32, help="of our networks")
    parser.add_argument("--quick", action="store_true", help="one size, that of a test: its times say nothing")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of rows, figure and page; without it, this one")
    options = parser.parse_args(arguments)
    if unknown := [stage for stage in options.stages if stage not in STAGES]:
        parser.error(f"no stage {', '.join(unknown)}; there are: {', '.join(STAGES)}")
    return options


def rows_of(stage: str, options: argparse.Namespace, commit: str | None) -> Iterator[Row]:
    """Rows of a stage in all its sizes.  Raises AssertionError when a twin gives other results."""
    settings = {name: setting.small if options.quick else setting for name, setting in SETTINGS.items()}
    with tempfile.TemporaryDirectory(prefix="threeshnet-bench-") as folder:
        world = World(settings, Path(folder), options.quick, getattr(torch, options.precision))
        how = {"least": 1, "most": 1} if options.quick else {"least": LEAST, "most": MOST}
        how["seconds"] = options.seconds
        sizes = [size for size in STAGES[stage].sizes if not options.sizes or size in options.sizes]
        for size in sizes[:1] if options.quick else sizes:
            case = STAGES[stage].make(world, size)
            check(case, lowered=world.precision != torch.float32)
            facts = {"stage": stage, "size": size, "items": case.items}
            facts |= {"precision": options.precision if case.lower else FLOAT32}
            facts |= {"cores": min(cores(), torch.get_num_threads()), "commit": commit}
            for way, turn, seconds in turns(case, **how):
                load = f"{os.getloadavg()[0]:.1f}"
                yield facts | {"way": way, "repeat": turn, "seconds": f"{seconds:.6f}", "load": load}


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each size: our seconds, and how the other ways compare, turn by turn."""
    for size in dict.fromkeys(row["size"] for row in rows):
        ways: dict[str, list[float]] = {}
        for row in rows:
            if row["size"] == size:
                ways.setdefault(row["way"], []).append(float(row["seconds"]))
        ours = ways.pop(OURS)
        parts = [f"{rows[0]['stage']}, {size}: {spread(ours)} s"]
        for way, seconds in ways.items():
            ratios = [b / a if way == NAIVE else a / b for a, b in zip(ours, seconds, strict=True)]
            parts.append(f"{'naive / ours' if way == NAIVE else f'ours / {way}'} {spread(ratios)}")
        yield ", ".join(parts)


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    main()
