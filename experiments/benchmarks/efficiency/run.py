"""Thousands of image-sentence pairs a second: 3SHNet, VSE-infinity and a cross-attention, encoding charged.

    python -m experiments.benchmarks.efficiency.run --out experiments/benchmarks/efficiency

Random weights and made-up photos and sentences: neither changes how long it takes. What two systems share is measured
once. Cases are measured in rounds (--repeats), and kept in results.json as they come: what is there is not measured
again (--again does), so a run that was cut goes on. Then the table of README.md and figure.png are rebuilt.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from threeshnet.files import write_json, write_rows
from threeshnet.installation import current_commit
from threeshnet.metrics.ranks import BLOCK_CELLS

from ..common import processor, write_page
from .clocks import TOP, Bench, Case
from .cross_attention import OVER_WORDS
from .shown import draw, measured, ratios, totals
from .systems import TEXTS
from .whole import DIRECTIONS, search

# What all rows of a results.json have in common.
SETTINGS = ("text", "dim", "regions", "region_width", "classes", "captions", "batch", "block_cells", "pair_cells")
SETTINGS += ("over_words", "precision")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parsed(arguments)
    file = options.out / "results.json"
    if options.tables:
        if not file.is_file():
            raise SystemExit(f"--tables: there is no {file}; run without --tables first")
        found = json.loads(file.read_text(encoding="utf-8"))
    else:
        torch.set_num_threads(options.threads)
        options.out.mkdir(parents=True, exist_ok=True)
        found = begun(options, file)
        measure(options, found, file)
    # times.csv is read by the table of claims, too.
    for name, rows in {"measured": measured(found["rows"]), "totals": totals(found), "times": ratios(found)}.items():
        write_rows(options.out / f"{name}.csv", tuple(rows[0]), rows)
    draw(found, options.out / "figure.png")
    write_page(options.out)
    return found


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of results.json, README.md and figure.png")
    parser.add_argument("--tables", action="store_true", help="measure nothing: table and figure from results.json")
    parser.add_argument("--again", action="store_true", help="forget what is there, and measure all of it anew")
    of = numbers_of(parser.add_argument_group("how much is measured (more is steadier, and slower)"))
    of("--galleries", [1_000, 5_000, 100_000], "images in the gallery, one size or several", nargs="+")
    of("--captions", 5, "of each image")
    of("--repeats", 3, "rounds; the median is shown, and the range")
    of("--images", 256, "encoded in a measurement")
    of("--sentences", 512, "encoded in a measurement")
    # Enough that the queries of the largest gallery fill tiles nearly as all of them would.
    of("--search-pairs", 500_000_000, "queries times gallery of a search: fewer queries where that is more")
    of("--pair-images", 128, "that the cross-attention scores with all their captions")
    of = numbers_of(parser.add_argument_group("how it is run"))
    of("--threads", torch.get_num_threads(), "of torch")
    of("--batch", 64, "images or sentences encoded at once")
    of("--block-cells", BLOCK_CELLS, "similarities held at once in a search")
    of("--pair-cells", 1_024, "pairs that the cross-attention scores at once")
    how = parser.add_argument_group("systems")
    how.add_argument("--text", choices=TEXTS, default="bert_base", help="text encoder of all; bert_base, with random "
                     "weights, is the paper's (default: %(default)s)")  # fmt: skip
    how.add_argument("--precision", choices=("float32", "float64"), default="float32", help="of the inner products; "
                     "float64 is what the suite's ranks are computed in (default: %(default)s)")  # fmt: skip
    how.add_argument("--over-words", choices=OVER_WORDS, default="mean", help="how the cross-attention adds words up, "
                     "by the mean or by log-sum-exp (default: %(default)s)")  # fmt: skip
    of = numbers_of(how)
    of("--dim", 1_024, "width D of the joint space")
    of("--regions", 36, "of an image")
    of("--region-width", 2_048, "numbers a region")
    of("--classes", 133, "of the segmentation")
    options = parser.parse_args(arguments)
    options.galleries = sorted(set(options.galleries))
    return options


def numbers_of(group: Any) -> Any:
    """Adds whole numbers from 1 on, with their default in the help."""

    def add(name: str, default: Any, what: str, **more: Any) -> None:
        shown = " ".join(map(str, default)) if isinstance(default, list) else default
        more |= {"type": positive, "default": default, "metavar": "N", "help": f"{what} (default: {shown})"}
        group.add_argument(name, **more)

    return add


def positive(given: str) -> int:
    number = int(given)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{given} is less than 1")
    return number


# ---- results.json


def begun(options: argparse.Namespace, file: Path) -> dict[str, Any]:
    """What is there of the same settings and machine, or a fresh start."""
    now = {"settings": {name: getattr(options, name) for name in SETTINGS} | {"best_of_search": TOP}}
    now["machine"] = machine()
    if options.again or not file.is_file():
        return {**now, "rows": {}}
    there = json.loads(file.read_text(encoding="utf-8"))
    differ = [
        f"  {name}: there {there[part].get(name)}, now {value}"
        for part, values in now.items()
        for name, value in values.items()
        if there[part].get(name) != value
    ]
    if differ:
        raise SystemExit(
            "\n".join([f"{file} was measured otherwise:", *differ, "give --again to measure anew, or another --out"])
        )
    return there


def machine() -> dict[str, Any]:
    """The class of machine, not which one it is."""
    return {
        "processor": processor(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        # Freed memory kept in the process: on small virtual machines much of the time goes into page faults otherwise.
        "memory kept": "yes" if os.environ.get("MALLOC_MMAP_MAX_") == "0" else "no",
        "torch": torch.__version__,
    }


def measure(options: argparse.Namespace, found: dict[str, Any], file: Path) -> None:
    """Rounds over all cases, so that whatever else the machine does meets each of them."""
    cases, commit = Bench(options).cases(), current_commit()
    for case in cases:
        found["rows"][case.name] = kept(found["rows"].get(case.name), case, commit, options)
    left = [
        case
        for number in range(options.repeats)
        for case in cases
        if len(found["rows"][case.name]["seconds"]) <= number
    ]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    # Drawn between measurements alone: a thread that draws would take its share of few cores.
    with Progress(*columns, auto_refresh=False, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(left))
        for case in left:
            progress.update(task, description=case.name, refresh=True)
            found["rows"][case.name]["seconds"].append(round(case.measure(), 6))
            write_json(file, found)
            progress.update(task, advance=1, refresh=True)


def kept(row: Mapping[str, Any] | None, case: Case, commit: str, options: argparse.Namespace) -> dict[str, Any]:
    """The row as it is where it is whole, or can go on; an empty one otherwise."""
    whole = row is not None and (len(row["seconds"]) >= options.repeats or row["commit"] == commit)
    if row is not None and whole and row["items"] == case.items:
        return dict(row)
    sizes = {search(direction, images): images for images in options.galleries for direction in DIRECTIONS}
    fresh: dict[str, Any] = {"unit": case.unit, "items": case.items, "gallery": sizes.get(case.name, 0)}
    return fresh | {"seconds": [], "commit": commit}


if __name__ == "__main__":
    main()
