"""Runs every hostile input, keeps a row of each, and writes the table of outcomes into the README.

    python -m experiments.benchmarks.hostile_inputs.run              goes on where rows.csv ends
    python -m experiments.benchmarks.hostile_inputs.run --tables     only the table
    python -m experiments.benchmarks.hostile_inputs.run --cases "evaluate-checkpoint and 01"    pytest's -k

A row that is no success and no refusal is a fault of this suite; `make nightly ARGS="-k <id>"` makes it again. To run a
case anew, remove its row.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import pytest

from threeshnet.reports.markdown import fill

from ..common import ROOT, read_rows

HERE = Path(__file__).resolve().parent
ROWS = HERE / "rows.csv"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="run nothing")
    parser.add_argument("--cases", default="", help="pytest's -k")
    options = parser.parse_args()
    code = 0
    if not options.tables:
        words = ["-m", "nightly", "-q", "--tb=line", "-p", "no:cacheprovider", f"--hostile-rows={ROWS}"]
        words += ["-o", "tmp_path_retention_policy=failed"]
        code = int(pytest.main([str(ROOT / "tests" / "fuzz"), *words, "-k", options.cases]))
    fill(HERE / "README.md", {"outcomes": table(read_rows(ROWS))})
    return code


def table(rows: list[dict[str, str]]) -> str:
    """Cases of each command and kind by outcome.

    >>> print(table([{"command": "train", "kind": "shards", "outcome": "done", "seconds": "1.0"}]))
    | command | hostile | cases | done | refused | faults |
    |---|---|---:|---:|---:|---:|
    | `train` | shards | 1 | 1 | 0 | 0 |
    | all | | 1 | 1 | 0 | 0 |
    """
    lines = ["| command | hostile | cases | done | refused | faults |", "|---|---|---:|---:|---:|---:|"]
    kinds = dict.fromkeys((row["command"], row["kind"]) for row in rows)
    for command, kind in kinds:
        outcomes = [row["outcome"] for row in rows if (row["command"], row["kind"]) == (command, kind)]
        lines.append(f"| `{command}` | {kind} | {numbers(outcomes)} |")
    return "\n".join([*lines, f"| all | | {numbers([row['outcome'] for row in rows])} |"])


def numbers(outcomes: list[str]) -> str:
    counts = Counter(outcomes)
    good = counts["done"], counts["refused"]
    return " | ".join(map(str, (len(outcomes), *good, len(outcomes) - sum(good))))


if __name__ == "__main__":
    sys.exit(main())
