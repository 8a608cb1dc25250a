"""Counts of stages beside their budgets: python -m experiments.benchmarks.stages.budget [STAGE …] [--update]

Operators, FLOPs and memory are counted, so other processes do not change the result. A count that exceeds its budget
by more than the margin ends the program with exit code 1. `--update` replaces the budgets by the counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
import transformers
from rich.console import Console

from threeshnet.files import read_rows, write_rows

from ..common import write_page
from . import encoders, learning, scoring
from .counts import Count, count
from .made_up import SETTINGS
from .stage import Case, World

HERE = Path(__file__).parent
FILE = "budget.csv"
UPDATE = "python -m experiments.benchmarks.stages.budget --update"
MARGIN = 0.1  # share of a budget; each optimisation that a test undoes adds at least 0.25
BATCH = 16  # pairs: four of VSpM's chunks
FLOAT32 = [torch.float32]  # without it, ranking takes bfloat16 on some processors
KEY = ("stage", "size")
LIBRARIES = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
UNITS = {"operators": (1, "", 0), "flops": (1e9, " GFLOP", 3), "allocated": (1e6, " MB", 1), "peak": (1e6, " MB", 1)}
Key = tuple[str, str]  # stage and size
Budgets = dict[Key, dict[str, str]]  # rows of the file

CASES: Mapping[Key, Callable[[World, str], Case]] = {
    ("image_evaluation", "demo"): partial(encoders.images, training=False),
    ("image_evaluation", "flickr8k"): partial(encoders.images, training=False),
    ("text_evaluation", "flickr8k"): partial(encoders.texts, training=False),
    ("gpo", "flickr8k"): encoders.gpo,
    ("gpo_evaluation", "flickr8k"): partial(encoders.gpo, training=False),
    ("vspm", "flickr8k"): encoders.vspm,
    ("objective", "1024 pairs"): learning.objective,
    ("objective", "1024 pairs, 128 rows"): partial(learning.objective, rows=128),
    ("step", "demo"): learning.step,
    ("step", "flickr8k"): learning.step,
    ("ranking", "1,000 x 5,000"): partial(scoring.ranking, precisions=FLOAT32),
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    file, console = options.out / FILE, Console()
    budgets, faults = read_budgets(file), []
    for key in CASES:
        if options.stages and key[0] not in options.stages:
            continue
        counted = count(case(key).ours)
        for line in table(key, counted, budgets.get(key)):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        faults += exceeded(key, counted, budgets.get(key))
        if options.update:
            budgets[key] = dict(zip(KEY, key, strict=True)) | counted._asdict() | LIBRARIES
    if options.update:
        write_rows(file, (*KEY, *Count._fields, *LIBRARIES), [budgets[key] for key in CASES if key in budgets])
        write_page(options.out)
    elif faults:
        sys.exit("\n".join(faults))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = list(dict.fromkeys(stage for stage, _ in CASES))
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"all by default: {', '.join(stages)}")
    parser.add_argument("--update", action="store_true", help="write the counts as the new budgets, and the page")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the budgets; without it, this one")
    options = parser.parse_args(arguments)
    if unknown := [stage for stage in options.stages if stage not in stages]:
        parser.error(f"no stage {', '.join(unknown)}; there are: {', '.join(stages)}")
    return options


def case(key: Key) -> Case:
    """A stage in the size of its budget: that of rows.csv, except for the batch."""
    settings = {name: setting._replace(batch=BATCH) for name, setting in SETTINGS.items()}
    return CASES[key](World(settings, HERE), key[1])  # no case writes into the folder


def read_budgets(file: Path) -> Budgets:
    return {(row["stage"], row["size"]): row for row in read_rows(file)}


def exceeded(key: Key, counted: Count, budget: Mapping[str, str] | None) -> list[str]:
    """A sentence for every count above its budget and the margin."""
    name = ", ".join(key)
    if budget is None:
        return [f"{name}: no budget in {FILE}; run {UPDATE}"]
    above = [measure for measure, value in counted._asdict().items() if value > int(budget[measure]) * (1 + MARGIN)]
    others = [f"{library} {budget[library]}" for library, here in LIBRARIES.items() if budget[library] != here]
    why = f" (the budget is of {', '.join(others)})" if others else ""
    return [
        f"{name}: {measure} {shown(measure, getattr(counted, measure))}, the budget is "
        f"{shown(measure, int(budget[measure]))} and at most {MARGIN:.0%} more{why}; if this is intended, run {UPDATE}"
        for measure in above
    ]


def table(key: Key, counted: Count, budget: Mapping[str, str] | None) -> Iterator[str]:
    """A line for each measure: stage, counted, budget, counted / budget."""
    for measure, value in counted._asdict().items():
        allowed = int(budget[measure]) if budget else None
        beside = f"{shown(measure, allowed):>16}{value / allowed:>8.3f}" if allowed else f"{'none':>16}{'–':>8}"
        yield f"{', '.join(key):<33}{measure:<10}{shown(measure, value):>16}{beside}"


def shown(measure: str, value: int) -> str:
    """A count in the unit of its measure."""
    divisor, unit, digits = UNITS[measure]
    return f"{value / divisor:,.{digits}f}{unit}"


if __name__ == "__main__":
    main()
